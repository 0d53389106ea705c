"""Names of the metrics in results, and checks of the metrics that a run stops on."""

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
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID
from rllib_reciprocator.results.metrics import BY_PAIR, LOSSES, RECIPROCAL_REWARD, RECIPROCAL_WEIGHT, SOCIAL
from rllib_reciprocator.utils.errors import UserError
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
# Metrics at the top level of a result. They only increase, so a run can always stop on them.
COUNTS = (ITERATIONS, "time_total_s", "num_env_steps_sampled_lifetime")
ENV_RUNNERS, LEARNERS, EVALUATION = "env_runners", "learners", "evaluation"
# Metrics of RLlib's env runners; some are missing until the first episode has ended.
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
# Env runner metrics about the run itself, e.g. timers. They may have further levels.
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
    """Returns the current name of a metric, and logs a warning if the given name is an old one.

    RLlib renamed many metrics, and results lack the old names: a run that stops on an old name would never end.

    Args:
        metric: The name, old or current.
        where: The file and key, for the message.
    """
    if metric not in _OLD:
        return metric
    logger.warning("%s: %s is an old name; %s is used instead", where, metric, _OLD[metric])
    return _OLD[metric]


def check_stop(stop: Mapping[str, float], where: str) -> None:
    """Checks stopping criteria, as far as this is possible without the algorithm.

    Raises:
        UserError: If a metric is in no group of a result, or if its value is never reached, or reached at once.
    """
    for metric, value in stop.items():
        check_group(metric, f"{where}.{metric}")
        if not math.isfinite(value):
            raise UserError(f"{where}.{metric}: {value} is never reached")
        if (metric in COUNTS or metric.endswith("_lifetime")) and value <= 0:
            raise UserError(f"{where}.{metric}: {value} is reached before training starts; use a value above 0")
        if metric == ITERATIONS and value != int(value):
            raise UserError(f"{where}.{metric}: {value} is not a whole number")


def check_group(metric: str, where: str) -> None:
    """Checks that results have a metric of this name, or a group for it.

    Raises:
        UserError: If they have neither.
    """
    group, _, name = metric.partition("/")
    if metric not in COUNTS and not (group in (ENV_RUNNERS, LEARNERS, EVALUATION) and name):
        groups = (f"{ENV_RUNNERS}/..", f"{LEARNERS}/..", f"{EVALUATION}/..")
        known_names = [*COUNTS, *groups, *(f"{ENV_RUNNERS}/{runner_metric}" for runner_metric in OF_ENV_RUNNERS)]
        raise UserError(f"{where}: not known{did_you_mean(metric, known_names)}")


def check_metric(metric: str, config: AlgorithmConfig, where: str) -> None:
    """Checks that an algorithm will report a metric, as far as this is known before the first result.

    Args:
        metric: The name of the metric.
        config: The algorithm's validated configuration.
        where: The file and key, for messages.

    Raises:
        UserError: If the algorithm will not report the metric.
    """
    group, _, name = metric.partition("/")
    if group == EVALUATION:
        if not config.evaluation_interval:
            raise UserError(f"{where}: evaluation is disabled; set config.evaluation_interval")
        group, _, name = name.partition("/")
    if group == ENV_RUNNERS and name.partition("/")[0] not in _INNER:
        names = set(_of_env_runners(config))
        prefixes = {pattern.removesuffix("*") for pattern in names if pattern.endswith("*")}
        if name not in names and not any(name.startswith(prefix) and name != prefix for prefix in prefixes):
            raise UserError(f"{where}: not known{did_you_mean(metric, (f'{ENV_RUNNERS}/{key}' for key in names))}")
    elif group == LEARNERS:
        specs = config._rl_module_spec.rl_module_specs if isinstance(config, BatchedConfig) else {}
        modules = list(dict.fromkeys([ALL_MODULES, INFLUENCE_MODULE_ID, *config.policies, *specs]))
        if name.partition("/")[0] not in modules:
            raise UserError(f"{where}: there is no such module{did_you_mean(name.partition('/')[0], modules)}")


def _of_env_runners(config: AlgorithmConfig) -> Iterable[str]:
    """Yields the names of all env runner metrics, without the group. A trailing ``*`` matches any continuation.

    Agents are known only for the games of :mod:`social_dilemmas`; names for other environments have ``*`` instead.
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
    for first_agent, second_agent in permutations(agents, 2):
        yield from (f"{name}/{first_agent}_on_{second_agent}" for name in BY_PAIR[:2])
        yield f"{BY_PAIR[2]}/{first_agent}_towards_{second_agent}"
        yield f"{INCENTIVES}/{first_agent}_to_{second_agent}"
        yield from (f"{INCENTIVES_BY_ACTION}/{first_agent}_to_{second_agent}/{action}" for action in game.action_names)


def _game(config: AlgorithmConfig) -> BatchedGame | None:
    if not (isinstance(config.env, str) and social_dilemmas.is_game(config.env)):
        return None
    return social_dilemmas.make(config.env, **dict(config.env_config))


def _outcomes(game: BatchedGame) -> Iterable[str]:
    """Returns the names of a game's outcomes, which the game reports with its first step."""
    game.reset(seed=0)
    step = game.step(torch.zeros(1, game.num_agents, dtype=torch.int64))
    return game.summarize({name: total[0] for name, total in step.outcomes.items()}, 1)


def _episode_outcomes(config: Any) -> frozenset[str]:
    """Returns the names of outcomes that results have only after an episode has ended.

    Args:
        config: The algorithm's settings in a result, or None.
    """
    env = config.get("env") if isinstance(config, Mapping) else None
    if not (isinstance(env, str) and social_dilemmas.is_game(env)):
        return frozenset()
    return social_dilemmas.make(env, **dict(config.get("env_config") or {})).episode_outcomes


def missing(metric: str, result: Mapping[str, Any]) -> str | None:
    """Returns an error message if a result lacks a metric; None if it is there or may still be reported.

    It may still be reported if its group is missing or empty, e.g. before the first episode has ended.

    Args:
        metric: The name of the metric, a path into the result.
        result: A result, as reported.
    """
    *groups, name = metric.split("/")
    node: Any = result
    for group in groups:
        node = node.get(group) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping) or not node or name in node or name in (*OF_ENV_RUNNERS, *LOSSES):
        return None
    if groups[-2:-1] == [OUTCOMES] and name in _episode_outcomes(result.get("config")):
        return None
    candidates = [f"{'/'.join(groups)}/{path}" for path in flatten_dict(dict(node)) if "timer" not in path]
    return f"is not in the results{did_you_mean(metric, candidates)}"
