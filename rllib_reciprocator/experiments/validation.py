"""Validates the settings of an experiment against its algorithm, because RLlib silently accepts unknown keys."""

from __future__ import annotations

import inspect
import json
import logging
import os
from importlib import import_module
from typing import Any, get_type_hints

import gymnasium
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

import social_dilemmas
from rllib_reciprocator.algorithms.registry import BATCHED, algorithm_class, algorithm_names
from rllib_reciprocator.engine import BatchedAlgorithm, BatchedConfig
from rllib_reciprocator.engine.config import BATCH_MODES
from rllib_reciprocator.experiments.ranges import SCHEDULED, check_range
from rllib_reciprocator.experiments.schema import Experiment, variants
from rllib_reciprocator.intrinsic.registry import intrinsic_names, intrinsic_reward
from rllib_reciprocator.models.settings import ModelSettings, model_settings_class
from rllib_reciprocator.players import RECIPROCITY, LearningSettings
from rllib_reciprocator.players.players import OWN_SETTINGS, PLAYER_KEYS
from rllib_reciprocator.results.metric_checks import ITERATIONS, check_metric
from rllib_reciprocator.rllib_episodes import environments
from rllib_reciprocator.rllib_episodes.reciprocate import SUPPORTED, check_modules
from rllib_reciprocator.utils.errors import UserError, explain, unknown
from rllib_reciprocator.utils.ray_internals import DEPRECATED_VALUE, env_creator
from social_dilemmas.registry import did_you_mean

logger = logging.getLogger(__name__)

_SETTERS = (
    "environment", "env_runners", "learners", "training", "callbacks", "evaluation", "offline_data", "multi_agent",
    "reporting", "checkpointing", "debugging", "fault_tolerance", "rl_module", "experimental", "api_stack",
    "framework", "resources",
)  # fmt: skip
# Name in YAML files -> parameter of the setter, for settings that RLlib calls by two names.
_ALIASES = {"lambda": "lambda_", "callbacks": "callbacks_class", "input": "input_"}
# Attributes of configurations that are set under other names.
_NOT_WRITTEN = {"player_mapping", "intrinsic_settings", "assigned_players", "meta_settings", "own_learning_settings"}
# Valid values of settings that RLlib annotates as strings and does not check.
_CHOICES = {"batch_mode": BATCH_MODES}
# Settings that have a default and can be disabled with None.
_MAY_BE_NONE = ("grad_clip", "min_time_s_per_iteration", "target_worker_clipping", "train_batch_size")


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
                    if settings.get(name) and not _anybody_has(config, name):
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


def _anybody_has(config: AlgorithmConfig, name: str) -> bool:
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
    _check_settings(settings, config, "config")
    if is_batched:
        _check_game(algorithm.__name__, env, settings.get("env_config", {}))
    else:
        _check_stock_environment(env, settings)
    _check_own(settings, config)
    _check_parts(settings, config)
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


def _check_settings(settings: dict[str, Any], config: AlgorithmConfig, path: str) -> None:
    """Checks the names, types and ranges of an algorithm's settings."""
    types = setting_types(type(config))
    known_keys = _known_keys(config, types)
    for key, value in settings.items():
        if key not in known_keys:
            raise UserError(f"{path}.{key}: {unknown(key, known_keys)}")
        default = vars(config).get(_ALIASES.get(key, key))
        if value is None and default is not None and key not in _MAY_BE_NONE:
            raise UserError(f"{path}.{key}: is null; omit it for the default, {default!r}")
        # check_range checks the points of a schedule. RLlib accepts schedules that its annotations do not declare.
        is_schedule = key in SCHEDULED and isinstance(value, list)
        if key in types and not is_schedule:
            _check_type(f"{path}.{key}", value, types[key])
        elif isinstance(default, bool | int | float | str) and not is_schedule:
            _check_type(f"{path}.{key}", value, float | int if isinstance(default, float) else type(default))
        check_range(f"{path}.{key}", key, value)
        if key in _CHOICES and value not in _CHOICES[key]:
            raise UserError(f"{path}.{key}: {value!r} is {unknown(value, _CHOICES[key])}")


def _check_parts(settings: dict[str, Any], config: AlgorithmConfig) -> None:
    """Checks algorithm settings that are nested in other settings: those of players, modules and evaluation."""
    parts: dict[str, Any] = {"evaluation_config": settings.get("evaluation_config")}
    for key in ("players", "algorithm_config_overrides_per_module"):
        parts |= {f"{key}.{name}": part for name, part in (settings.get(key) or {}).items()}
    for path, part in parts.items():
        if isinstance(part, dict):
            overrides = {key: value for key, value in part.items() if key not in PLAYER_KEYS}
            if path.startswith("players"):
                overrides = {key: value for key, value in overrides.items() if key in (*OWN_SETTINGS, "lambda")}
            _check_settings(overrides, config, f"config.{path}")


def algorithm_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings as ``AlgorithmConfig.update_from_dict`` accepts them, with another name for ``model_config``."""
    rllib_settings = dict(settings)
    if "model_config" in rllib_settings:
        rllib_settings["_model_config"] = rllib_settings.pop("model_config")
    return rllib_settings


def setting_types(config_class: type[AlgorithmConfig]) -> dict[str, Any]:
    """Returns the annotated types of all settings by name, from the setters of the class and its base classes."""
    types: dict[str, Any] = {}
    for base_class in reversed(config_class.__mro__):
        for setter in _SETTERS:
            method = vars(base_class).get(setter)
            if method is None:
                continue
            try:
                hints = get_type_hints(method)
            except NameError:  # RLlib imports some types only under TYPE_CHECKING
                hints = {name: hint for name, hint in method.__annotations__.items() if not isinstance(hint, str)}
            for name, parameter in inspect.signature(method).parameters.items():
                if parameter.kind is parameter.KEYWORD_ONLY and name in hints:
                    types[name] = hints[name]
    for alias, name in _ALIASES.items():
        if name in types:
            types[alias] = types[name]
    return types


def _known_keys(config: AlgorithmConfig, types: dict[str, Any]) -> set[str]:
    attributes = {key for key in vars(config) if not key.startswith("_")}
    deprecated_keys = {key for key in attributes if getattr(config, key, None) is DEPRECATED_VALUE and key not in types}
    known_keys = (
        (attributes - deprecated_keys) | set(types) | set(_ALIASES) | {"model_config", "train_batch_size_per_learner"}
    )
    if isinstance(config, BatchedConfig):
        known_keys |= {"players", "meta", "learning_players", *intrinsic_names()}
    elif isinstance(config, SUPPORTED):
        known_keys |= {"players", RECIPROCITY}
    return known_keys - _NOT_WRITTEN


def _check_type(path: str, value: Any, annotation: Any) -> None:
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except Exception:  # pydantic has no schema for some of RLlib's types; validate() checks those
        return
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        try:
            adapter.validate_json(json.dumps(value), strict=True)
        except (ValidationError, TypeError, ValueError):
            raise UserError(f"{path}: {explain(error)[1]}") from None
    except Exception:  # incomplete schema: RLlib imports the type only under TYPE_CHECKING
        return


def _check_game(run: str, env: str | None, env_config: dict[str, Any]) -> None:
    if env is None:
        raise UserError(f"env: missing; {run} needs one of " + ", ".join(social_dilemmas.game_ids()))
    try:
        spec = social_dilemmas.spec(env)
    except ValueError as error:
        raise UserError(f"env: {error}") from None
    setting_specs = spec.settings()
    for name, value in env_config.items():
        if name not in setting_specs:
            raise UserError(f"config.env_config.{name}: {unknown(name, setting_specs)}")
        _check_type(f"config.env_config.{name}", value, setting_specs[name][0])
    try:
        spec.make(**env_config)
    except Exception as error:  # a user-defined game can raise exceptions of any type
        raise UserError(f"config.env_config: {error}") from None


def _check_stock_environment(env: str | None, settings: dict[str, Any]) -> None:
    if env is None:
        raise UserError("env: missing")
    if environments.is_known(env):
        if "players" not in settings and "policies" not in settings:
            raise UserError(
                f'env: {env} has several agents; assign players to them, e.g. players: {{"*": reciprocator}}'
            )
        try:
            environments.register(env)
        except ValueError as error:
            raise UserError(f"env: {error}") from None
        return
    if env in gymnasium.registry or env_creator(env):
        return
    # Path of a class, or id of an environment that is registered with Gymnasium when its module is imported.
    module, separator, name = env.rpartition(":") if ":" in env else env.rpartition(".")
    if not separator or not module:
        raise UserError(f"env: {env!r} is {unknown(env, [*gymnasium.registry, *social_dilemmas.game_ids()])}")
    try:
        imported_module = import_module(module)
    except Exception as error:  # a user-defined module can raise exceptions of any type
        raise UserError(f"env: {env!r}: {module} cannot be imported ({error})") from None
    if name not in gymnasium.registry and not hasattr(imported_module, name):
        raise UserError(f"env: {env!r}: {module} has no {name!r}{did_you_mean(name, vars(imported_module))}")


def _check_own(settings: dict[str, Any], config: AlgorithmConfig) -> None:
    """Checks the settings that this package adds to RLlib's, and those of the networks."""
    is_batched = isinstance(config, BatchedConfig)
    networks: dict[str, Any] = settings.get("model_config", {})
    models: dict[str, type[BaseModel]] = {
        **{name: intrinsic_reward(name).settings_class() for name in intrinsic_names()},
        "model_config": model_settings_class(networks if is_batched else {"model": "rllib"}),
    }
    if not is_batched and any("module" in str(player) for player in settings.get("players", {}).values()):
        del models["model_config"]  # a user-defined module class defines its own settings
    if isinstance(config, BatchedConfig):
        models["meta"] = type(config.meta_settings)
    values = {key: settings.get(key, {}) for key in models}
    for name, player in settings.get("learning_players", {}).items():
        key = f"learning_players.{name}"
        if not isinstance(player, dict):
            raise UserError(f"config.{key}: {player!r} is not a mapping")
        if isinstance(player.get("model_config"), dict):
            models[f"{key}.model_config"], values[f"{key}.model_config"] = ModelSettings, player["model_config"]
        models[key], values[key] = LearningSettings, player
    for key, model in models.items():
        try:
            model.model_validate(values[key], strict=True)
        except ValidationError as error:
            names = {field.alias or name for name, field in model.model_fields.items()}
            path, problem = explain(error, names - ({"model"} if not is_batched else set()))
            raise UserError(f"config.{f'{key}.{path}' if path else key}: {problem}") from None
