"""Extracts the main metrics of a result, under short names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rllib_reciprocator.utils.metric_names import INCENTIVES, INCENTIVES_BY_ACTION, REWARD_PER_STEP
from rllib_reciprocator.utils.quantiles import QUANTILES

# Metrics that learners log per module.
LOSSES = ("policy_loss", "vf_loss", "entropy", "mean_kl_loss", "loss")
RECIPROCAL_REWARD, RECIPROCAL_WEIGHT = "reciprocal_reward", "reciprocal_weight"
# One agent's undiscounted extrinsic return per episode, and the sum over all agents.
RETURN, COLLECTIVE_RETURN = "return", "collective_return"
BY_PAIR = ("influence", "influence_std", "balance")
# Incentives that agents give each other, by pair, and by pair and action of the recipient.
OF_INCENTIVES = (INCENTIVES, INCENTIVES_BY_ACTION)
SOCIAL = ("efficiency", "equality", "reward_gap")
NOT_OUTCOMES = (
    RETURN, COLLECTIVE_RETURN, REWARD_PER_STEP, RECIPROCAL_REWARD, *BY_PAIR, *OF_INCENTIVES, *SOCIAL, *LOSSES,
)  # fmt: skip


def outcome_rates(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Returns the outcome rates in a result: outcome -> agent -> value; empty for algorithms that report none.

    Rates of whole episodes are omitted if no episode ended in this iteration.
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
    """Returns the mean extrinsic reward of each agent per step, which is available before any episode has ended."""
    return _finite(result.get("env_runners", {}).get(REWARD_PER_STEP, {}))


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns the finite values, sorted by name. RLlib reports NaN for a metric without a new value."""
    numbers = {name: float(values[name]) for name in sorted(values) if values[name] is not None}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def iterate_metrics(result: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Yields name, subject (an agent, an ordered pair, or empty for all agents) and value of every metric."""
    for name, subject, value in _all(result):
        if value is not None:
            yield name, subject, float(value)


def _all(result: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    runner_metrics = result.get("env_runners", {})
    for name, by_agent in outcome_rates(result).items():
        yield from ((name, agent, value) for agent, value in by_agent.items())
    yield from ((RETURN, agent, value) for agent, value in runner_metrics.get("agent_episode_returns_mean", {}).items())
    yield from ((REWARD_PER_STEP, agent, value) for agent, value in runner_metrics.get(REWARD_PER_STEP, {}).items())
    yield COLLECTIVE_RETURN, "", runner_metrics.get("episode_return_mean")
    yield from ((name, "", runner_metrics.get("social", {}).get(name)) for name in SOCIAL)
    for name in BY_PAIR:
        yield from ((name, pair, value) for pair, value in runner_metrics.get(name, {}).items())
    yield from ((INCENTIVES, pair, value) for pair, value in runner_metrics.get(INCENTIVES, {}).items())
    for pair, by_action in runner_metrics.get(INCENTIVES_BY_ACTION, {}).items():
        yield from ((INCENTIVES_BY_ACTION, f"{pair} for {action}", value) for action, value in by_action.items())
    yield from ((RECIPROCAL_REWARD, agent, value) for agent, value in runner_metrics.get(RECIPROCAL_REWARD, {}).items())
    for module_id, optimization_metrics in result.get("learners", {}).items():
        yield RECIPROCAL_REWARD, module_id, optimization_metrics.get(f"{RECIPROCAL_REWARD}_mean")
        yield from ((name, module_id, optimization_metrics.get(name)) for name in LOSSES)


def distributions(result: Mapping[str, Any]) -> Iterator[tuple[str, str, list[float]]]:
    """Yields name, subject and quantiles of every metric with a logged distribution.

    The quantiles are evenly spaced, over all samples. Metrics without samples in this iteration are skipped, e.g. if
    learners run in a thread and no update was ready.
    """
    runner_metrics, name = result.get("env_runners", {}), f"{RECIPROCAL_REWARD}_{QUANTILES}"
    entries = [("influence", pair, values) for pair, values in runner_metrics.get(f"influence_{QUANTILES}", {}).items()]
    by_agent = dict(runner_metrics.get(name, {}))
    by_agent |= {
        module_id: optimization_metrics[name]
        for module_id, optimization_metrics in result.get("learners", {}).items()
        if name in optimization_metrics
    }
    entries += [(RECIPROCAL_REWARD, agent, values) for agent, values in by_agent.items()]
    yield from (entry for entry in entries if len(entry[2]))
