"""The figures in a result that are worth a look, under their own names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rllib_reciprocator.utils.metric_names import INCENTIVES, INCENTIVES_BY_ACTION, REWARD_PER_STEP
from rllib_reciprocator.utils.quantiles import QUANTILES

# Colours of lines and bars, in their order.
PALETTE = (
    "#d64541", "#3468c0", "#2e8b57", "#e69f00", "#7b4fa6", "#00a0aa", "#785a3c", "#5a5a5a", "#c2478f", "#8aa400",
)  # fmt: skip
# Figures of each learner's own.
LOSSES = ("policy_loss", "vf_loss", "entropy", "mean_kl_loss", "loss")
RECIPROCAL_REWARD, RECIPROCAL_WEIGHT = "reciprocal_reward", "reciprocal_weight"
# One agent's undiscounted extrinsic return per episode, and the sum over all agents.
RETURN, COLLECTIVE_RETURN = "return", "collective_return"
BY_PAIR = ("influence", "influence_std", "balance")
# What agents give each other, by pair, and by pair and what the recipient did.
OF_INCENTIVES = (INCENTIVES, INCENTIVES_BY_ACTION)
SOCIAL = ("efficiency", "equality", "reward_gap")
NOT_OUTCOMES = (
    RETURN, COLLECTIVE_RETURN, REWARD_PER_STEP, RECIPROCAL_REWARD, *BY_PAIR, *OF_INCENTIVES, *SOCIAL, *LOSSES,
)  # fmt: skip


def outcome_rates(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The outcome rates in a result: outcome -> agent -> value; empty for algorithms that report none.

    Rates of whole episodes are left out where no episode ended in this iteration.
    """
    rates: dict[str, dict[str, float]] = {}
    outcomes = result.get("env_runners", {}).get("outcomes", {})
    for agent in sorted(outcomes):
        for name, value in _finite(outcomes[agent]).items():
            rates.setdefault(name, {})[agent] = float(value)
    return rates


def returns(result: Mapping[str, Any]) -> dict[str, float]:
    """Returns the mean return of each agent per episode; empty if no episode ended in this iteration."""
    return _finite(result.get("env_runners", {}).get("agent_episode_returns_mean", {}))


def collective_return(result: Mapping[str, Any]) -> float | None:
    """Returns the mean over episodes of the sum of all agents' returns; None if no episode ended in this iteration."""
    return _finite({"": result.get("env_runners", {}).get("episode_return_mean")}).get("")


def rewards_per_step(result: Mapping[str, Any]) -> dict[str, float]:
    """Returns the mean extrinsic reward of each agent per step, which needs no episode to have ended."""
    return _finite(result.get("env_runners", {}).get(REWARD_PER_STEP, {}))


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns the values that are there, by name in order. RLlib reports NaN for a metric without a new value."""
    numbers = {name: float(values[name]) for name in sorted(values) if values[name] is not None}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def figures(result: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Name, of whom (an agent, an ordered pair, or empty for all together), and value of every figure."""
    for name, of, value in _all(result):
        if value is not None:
            yield name, of, float(value)


def _all(result: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    sampled = result.get("env_runners", {})
    for name, by_agent in outcome_rates(result).items():
        yield from ((name, agent, value) for agent, value in by_agent.items())
    yield from ((RETURN, agent, value) for agent, value in sampled.get("agent_episode_returns_mean", {}).items())
    yield from ((REWARD_PER_STEP, agent, value) for agent, value in sampled.get(REWARD_PER_STEP, {}).items())
    yield COLLECTIVE_RETURN, "", sampled.get("episode_return_mean")
    yield from ((name, "", sampled.get("social", {}).get(name)) for name in SOCIAL)
    for name in BY_PAIR:
        yield from ((name, pair, value) for pair, value in sampled.get(name, {}).items())
    yield from ((INCENTIVES, pair, value) for pair, value in sampled.get(INCENTIVES, {}).items())
    for pair, by_action in sampled.get(INCENTIVES_BY_ACTION, {}).items():
        yield from ((INCENTIVES_BY_ACTION, f"{pair} for {action}", value) for action, value in by_action.items())
    yield from ((RECIPROCAL_REWARD, agent, value) for agent, value in sampled.get(RECIPROCAL_REWARD, {}).items())
    for module_id, of_module in result.get("learners", {}).items():
        yield RECIPROCAL_REWARD, module_id, of_module.get(f"{RECIPROCAL_REWARD}_mean")
        yield from ((name, module_id, of_module.get(name)) for name in LOSSES)


def distributions(result: Mapping[str, Any]) -> Iterator[tuple[str, str, list[float]]]:
    """Name, of whom, and evenly spaced quantiles of everything whose distribution is told, of all samples together.

    Nothing of what nothing was told in this iteration, as where learners run in a thread and none was ready.
    """
    sampled, name = result.get("env_runners", {}), f"{RECIPROCAL_REWARD}_{QUANTILES}"
    told = [("influence", pair, values) for pair, values in sampled.get(f"influence_{QUANTILES}", {}).items()]
    by_agent = dict(sampled.get(name, {}))
    by_agent |= {key: of_module[name] for key, of_module in result.get("learners", {}).items() if name in of_module}
    told += [(RECIPROCAL_REWARD, agent, values) for agent, values in by_agent.items()]
    yield from (each for each in told if len(each[2]))
