"""The figures of a result: which there are, by which names, and which a run may stop on."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from itertools import permutations
from typing import Any

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

import social_dilemmas
from rllib_reciprocator.engine import BatchedConfig
from rllib_reciprocator.experiments.errors import UserError
from rllib_reciprocator.experiments.figures import BY_PAIR, LOSSES, RECIPROCAL_REWARD, RECIPROCAL_WEIGHT, SOCIAL
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID
from rllib_reciprocator.utils.metric_names import (
    INCENTIVES,
    INCENTIVES_BY_ACTION,
    INNER_EPISODES,
    NUM_TIMED_OUT,
    OUTCOMES,
    REWARD_PER_STEP,
)
from rllib_reciprocator.utils.ray_internals import flatten_dict
from social_dilemmas.batched_game import BatchedGame
from social_dilemmas.registry import did_you_mean

logger = logging.getLogger(__name__)

ITERATIONS = "training_iteration"
# Figures of a result that are in no group. They only grow, so that a run can always stop on them.
COUNTS = (ITERATIONS, "time_total_s", "num_env_steps_sampled_lifetime")
ENV_RUNNERS, LEARNERS, EVALUATION = "env_runners", "learners", "evaluation"
# What RLlib's env runners report of themselves; there is nothing of some before the first episode has ended.
OF_ENV_RUNNERS = (
    "episode_return_mean", "episode_return_min", "episode_return_max", "episode_len_mean", "episode_len_min",
    "episode_len_max", "episode_duration_sec_mean", "num_episodes", "num_episodes_lifetime", "num_env_steps_sampled",
    "num_env_steps_sampled_lifetime", NUM_TIMED_OUT,
)  # fmt: skip
BY_AGENT = (
    "agent_episode_returns_mean", "agent_episode_return_mean", "agent_steps", "num_agent_steps_sampled",
    "num_agent_steps_sampled_lifetime", RECIPROCAL_REWARD, REWARD_PER_STEP,
)  # fmt: skip
BY_MODULE = (
    "module_episode_returns_mean", "module_episode_return_mean", "num_module_steps_sampled",
    "num_module_steps_sampled_lifetime",
)  # fmt: skip
# Figures about the run itself, at any depth.
_INNER = (
    "timers", "sample", "weights_seq_no", "env_to_module_connector", "module_to_env_connector", "env_step_timer",
    "env_reset_timer", "rlmodule_inference_timer", "time_between_sampling", "connector_pipeline_timer",
    "env_to_module_sum_episodes_length_in", "env_to_module_sum_episodes_length_out",
    "num_env_steps_sampled_lifetime_throughput",
)  # fmt: skip
ALL_MODULES = "__all_modules__"
_OLD = {
    "timesteps_total": "num_env_steps_sampled_lifetime",
    "agent_timesteps_total": "num_env_steps_sampled_lifetime",
    "num_env_steps_sampled": "num_env_steps_sampled_lifetime",
    "episodes_total": "env_runners/num_episodes_lifetime",
    "time_total": "time_total_s",
    "episode_len_mean": "env_runners/episode_len_mean",
    **{f"episode_return_{kind}": f"env_runners/episode_return_{kind}" for kind in ("mean", "min", "max")},
    **{
        f"{group}episode_reward_{kind}": f"env_runners/episode_return_{kind}"
        for group in ("", "sampler_results/", "env_runners/")
        for kind in ("mean", "min", "max")
    },
}


def resolve_metric_alias(metric: str, where: str) -> str:
    """The name that a figure has in results; tells the user where that is not the one that was given.

    RLlib renamed many, and the results of today lack the old ones: a run that is to stop on one would go on for ever.

    Args:
        metric: The name as given.
        where: The file and key, for the message.
    """
    if metric not in _OLD:
        return metric
    logger.warning("%s: %s is taken for %s, its name today", where, metric, _OLD[metric])
    return _OLD[metric]


def check_stop(stop: Mapping[str, float], where: str) -> None:
    """Checks when to stop, as far as that can be told without the algorithm.

    Raises:
        UserError: If a figure is in no group that results have, or a value is never reached, or reached at once.
    """
    for metric, value in stop.items():
        check_group(metric, f"{where}.{metric}")
        if not math.isfinite(value):
            raise UserError(f"{where}.{metric}: {value} is never reached")
        if (metric in COUNTS or metric.endswith("_lifetime")) and value <= 0:
            raise UserError(f"{where}.{metric}: {value} is reached before anything is learned; give more than 0")
        if metric == ITERATIONS and value != int(value):
            raise UserError(f"{where}.{metric}: {value} is not a whole number")


def check_group(metric: str, where: str) -> None:
    """Checks that results have a figure of that name, or a group for it.

    Raises:
        UserError: If not.
    """
    group, _, name = metric.partition("/")
    if metric not in COUNTS and not (group in (ENV_RUNNERS, LEARNERS, EVALUATION) and name):
        groups = (f"{ENV_RUNNERS}/..", f"{LEARNERS}/..", f"{EVALUATION}/..")
        known = [*COUNTS, *groups, *(f"{ENV_RUNNERS}/{each}" for each in OF_ENV_RUNNERS)]
        raise UserError(f"{where}: not known{did_you_mean(metric, known)}")


def check_metric(metric: str, config: AlgorithmConfig, where: str) -> None:
    """Checks that an algorithm will report a figure, as far as that is known before its first result.

    Args:
        metric: Its name.
        config: The algorithm's validated configuration.
        where: The file and key, for messages.

    Raises:
        UserError: If it will not.
    """
    group, _, name = metric.partition("/")
    if group == EVALUATION:
        if not config.evaluation_interval:
            raise UserError(f"{where}: there is no evaluation; set config.evaluation_interval")
        group, _, name = name.partition("/")
    if group == ENV_RUNNERS and name.partition("/")[0] not in _INNER:
        known = set(_of_env_runners(config))
        prefixes = {each.removesuffix("*") for each in known if each.endswith("*")}
        if name not in known and not any(name.startswith(each) and name != each for each in prefixes):
            raise UserError(f"{where}: not known{did_you_mean(metric, (f'{ENV_RUNNERS}/{each}' for each in known))}")
    elif group == LEARNERS:
        specs = config._rl_module_spec.rl_module_specs if isinstance(config, BatchedConfig) else {}
        modules = list(dict.fromkeys([ALL_MODULES, INFLUENCE_MODULE_ID, *config.policies, *specs]))
        if name.partition("/")[0] not in modules:
            raise UserError(f"{where}: there is no such module{did_you_mean(name.partition('/')[0], modules)}")


def _of_env_runners(config: AlgorithmConfig) -> Iterable[str]:
    """Names of all figures of the env runners, without the group; those ending with ``*`` stand for any beginning so.

    What agents there are is known of our games only.
    """
    yield from OF_ENV_RUNNERS
    if not isinstance(config, BatchedConfig):
        yield RECIPROCAL_WEIGHT
    game = _game(config)
    agents = game.agents if game is not None else ("*",)
    yield from (f"{name}/{agent}" for name in BY_AGENT for agent in agents)
    yield from (f"{name}/{module}" for name in BY_MODULE for module in config.policies)
    if game is None:
        yield from (f"{name}/*" for name in BY_PAIR)
        return
    yield from (f"{OUTCOMES}/{agent}/{name}" for agent in agents for name in _outcomes(game))
    # Equality is not defined where rewards may be negative.
    yield from (f"social/{name}" for name in SOCIAL if name != "equality" or game.reward_range[0] >= 0)
    yield "pool/*"
    inner = config.inner_episodes() if isinstance(config, BatchedConfig) else 1
    for name in (REWARD_PER_STEP, *_outcomes(game)) if inner > 1 else ():
        yield from (f"{INNER_EPISODES}/{agent}/{name}/{number}" for agent in agents for number in range(inner))
    for first, second in permutations(agents, 2):
        yield from (f"{name}/{first}_on_{second}" for name in BY_PAIR[:2])
        yield f"{BY_PAIR[2]}/{first}_towards_{second}"
        yield f"{INCENTIVES}/{first}_to_{second}"
        yield from (f"{INCENTIVES_BY_ACTION}/{first}_to_{second}/{action}" for action in game.action_names)


def _game(config: AlgorithmConfig) -> BatchedGame | None:
    if not (isinstance(config.env, str) and social_dilemmas.is_game(config.env)):
        return None
    return social_dilemmas.make(config.env, **dict(config.env_config))


def _outcomes(game: BatchedGame) -> Iterable[str]:
    """The names of a game's outcomes, which it tells with its first step."""
    game.reset(seed=0)
    step = game.step(torch.zeros(1, game.num_agents, dtype=torch.int64))
    return game.summarize({name: total[0] for name, total in step.outcomes.items()}, 1)


def _episode_outcomes(config: Any) -> frozenset[str]:
    """Returns the names of outcomes that results have only after an episode has ended.

    Args:
        config: The algorithm's settings as a result has them, or None.
    """
    env = config.get("env") if isinstance(config, Mapping) else None
    if not (isinstance(env, str) and social_dilemmas.is_game(env)):
        return frozenset()
    return social_dilemmas.make(env, **dict(config.get("env_config") or {})).episode_outcomes


def missing(metric: str, result: Mapping[str, Any]) -> str | None:
    """What is wrong with a figure that a result lacks; None if it is there, or may still come.

    It may still come where nothing of its kind is there, as before the first episode has ended.

    Args:
        metric: Its name.
        result: A result, as reported.
    """
    *groups, name = metric.split("/")
    within: Any = result
    for group in groups:
        within = within.get(group) if isinstance(within, Mapping) else None
    if not isinstance(within, Mapping) or not within or name in within or name in (*OF_ENV_RUNNERS, *LOSSES):
        return None
    if groups[-2:-1] == [OUTCOMES] and name in _episode_outcomes(result.get("config")):
        return None
    there = [f"{'/'.join(groups)}/{each}" for each in flatten_dict(dict(within)) if "timer" not in each]
    return f"is not in the results{did_you_mean(metric, there)}"
