"""Validates the settings of an experiment against its algorithm, because RLlib silently accepts unknown keys."""

from __future__ import annotations

import logging
import os
from typing import Any

from pydantic import ValidationError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_reciprocator.algorithms.registry import BATCHED, algorithm_class, algorithm_names
from rllib_reciprocator.engine import BatchedAlgorithm, BatchedConfig
from rllib_reciprocator.engine.registries import intrinsic_names
from rllib_reciprocator.experiments.environment_checks import check_game, check_rllib_environment
from rllib_reciprocator.experiments.schema import Experiment, variants
from rllib_reciprocator.experiments.setting_checks import check_nested_settings, check_package_settings, check_settings
from rllib_reciprocator.intrinsic.reciprocity.settings import RECIPROCITY
from rllib_reciprocator.results.metric_checks import ITERATIONS, check_metric
from rllib_reciprocator.rllib_episodes.episode_settings import SUPPORTED
from rllib_reciprocator.rllib_episodes.module_checks import check_modules
from rllib_reciprocator.utils.errors import UserError, explain, unknown

logger = logging.getLogger(__name__)


def check(experiment: Experiment, where: str) -> type[Algorithm]:
    """Validates the algorithm, the environment and all settings of an experiment without starting anything.

    Args:
        experiment: The experiment.
        where: The file, for messages.

    Returns:
        The algorithm class.

    Raises:
        UserError: If a setting is invalid. The message has the file, the path of the key, the problem and the nearest
            valid name.
    """
    prefix = f"{where}: {experiment.name}"
    try:
        algorithm = algorithm_class(experiment.run)
    except KeyError:
        raise UserError(f"{prefix}.run: {experiment.run!r} is {unknown(experiment.run, algorithm_names())}") from None
    except ValueError as error:
        raise UserError(f"{prefix}.run: {error}") from None
    for variant_index, settings in enumerate(variants(experiment.config)):
        try:
            config = build_config(algorithm, experiment.env, settings)
            if variant_index == 0:
                for name in intrinsic_names():
                    if settings.get(name) and not _any_player_has(config, name):
                        problem = "no player reciprocates" if name == RECIPROCITY else "no player has this reward"
                        logger.warning("%s.config.%s: %s, so it is not used", prefix, name, problem)
                for metric in experiment.stop:
                    check_metric(metric, config, f"stop.{metric}")
                if experiment.metric:
                    check_metric(experiment.metric, config, f"metric: {experiment.metric}")
        except UserError as error:
            raise UserError(f"{prefix}.{error}") from None
    if not experiment.stop:
        raise UserError(f"{prefix}.stop: missing; set when a trial ends, e.g. {{{ITERATIONS}: 100}}")
    return algorithm


def _any_player_has(config: AlgorithmConfig, name: str) -> bool:
    """Returns True if any player has an intrinsic reward, or if it is tracked even without such a player."""
    if isinstance(config, BatchedConfig):
        return name in config.intrinsic_by_player() or config.intrinsic_settings[name].always
    return hasattr(config, "episode_reciprocity")


def check_memory(experiment: Experiment, algorithm: type[Algorithm], where: str) -> None:
    """Checks that the samples of one iteration of the batched engine fit into the memory of this machine.

    Applies only if the env runners are on this machine.

    Raises:
        UserError: If the samples do not fit.
    """
    if not issubclass(algorithm, BatchedAlgorithm):
        return
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for settings in variants(experiment.config):
        sample_bytes = build_config(algorithm, experiment.env, settings).sample_bytes()
        if sample_bytes > memory_bytes:
            raise UserError(
                f"{where}: {experiment.name}.config.num_envs_per_env_runner: the samples of an iteration need"
                f" {sample_bytes / 2**30:.0f} GiB of memory; this machine has {memory_bytes / 2**30:.0f}"
            )


def build_config(algorithm: type[Algorithm], env: str | None, settings: dict[str, Any]) -> AlgorithmConfig:
    """Builds a validated configuration from settings as written in YAML files.

    Raises:
        UserError: If a setting is invalid. The message begins with the path of the key, from ``config`` or ``env`` on.
    """
    config = algorithm.get_default_config()
    is_batched = isinstance(config, BatchedConfig)
    for key in ("players", *intrinsic_names()):
        if key not in settings:
            continue
        if not isinstance(config, SUPPORTED):
            raise UserError(
                f"config.{key}: not for {algorithm.__name__}; run one of {', '.join(BATCHED)}, PPO, APPO, IMPALA or a"
                " subclass (influence in the replay buffer of an off-policy algorithm would be outdated)"
            )
        if not is_batched and key not in ("players", RECIPROCITY):
            raise UserError(f"config.{key}: not for {algorithm.__name__}; run one of {', '.join(BATCHED)}")
    for key in ("players", *intrinsic_names(), "meta", "learning_players", "model_config", "env_config"):
        if not isinstance(settings.get(key, {}), dict):
            raise UserError(f"config.{key}: {settings[key]!r} is not a mapping")
    check_settings(settings, config, "config")
    if is_batched:
        check_game(algorithm.__name__, env, settings.get("env_config", {}))
    else:
        check_rllib_environment(env, settings)
    check_package_settings(settings, config)
    check_nested_settings(settings, config)
    try:
        config.environment(env)
        config.update_from_dict(algorithm_settings(settings))
        config.validate()
        if not is_batched and "players" in settings:
            check_modules(config)
    except ValidationError as error:
        raise UserError("config.{}: {}".format(*explain(error))) from None
    except Exception as error:  # RLlib and environments raise exceptions of any type
        logger.debug("Invalid settings", exc_info=True)
        problem = str(error) or type(error).__name__
        has_path = is_batched or problem.startswith(("players", "reciprocity", "env"))
        raise UserError(f"config.{problem}" if has_path else f"config: {problem}") from None
    return config


def algorithm_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings as ``AlgorithmConfig.update_from_dict`` accepts them, with another name for ``model_config``."""
    rllib_settings = dict(settings)
    if "model_config" in rllib_settings:
        rllib_settings["_model_config"] = rllib_settings.pop("model_config")
    return rllib_settings
