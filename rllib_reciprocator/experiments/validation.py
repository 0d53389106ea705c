"""Checks an experiment's settings against its algorithm, because RLlib takes unknown keys in silence."""

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
from rllib_reciprocator.experiments.errors import UserError, explain, unknown
from rllib_reciprocator.experiments.metrics import ITERATIONS, check_metric
from rllib_reciprocator.experiments.ranges import SCHEDULED, check_range
from rllib_reciprocator.experiments.schema import Experiment, variants
from rllib_reciprocator.intrinsic.registry import intrinsic_names, intrinsic_reward
from rllib_reciprocator.models.settings import ModelSettings, model_settings_class
from rllib_reciprocator.players import RECIPROCITY, LearningSettings
from rllib_reciprocator.players.players import OWN_SETTINGS, PLAYER_KEYS
from rllib_reciprocator.rllib_episodes import environments
from rllib_reciprocator.rllib_episodes.reciprocate import SUPPORTED, check_modules
from rllib_reciprocator.utils.ray_internals import DEPRECATED_VALUE, env_creator
from social_dilemmas.registry import did_you_mean

logger = logging.getLogger(__name__)

_SETTERS = (
    "environment", "env_runners", "learners", "training", "callbacks", "evaluation", "offline_data", "multi_agent",
    "reporting", "checkpointing", "debugging", "fault_tolerance", "rl_module", "experimental", "api_stack",
    "framework", "resources",
)  # fmt: skip
# Names in files -> parameters of setters, where RLlib has two for one setting.
_ALIASES = {"lambda": "lambda_", "callbacks": "callbacks_class", "input": "input_"}
# Attributes of configurations that are written by other names.
_NOT_WRITTEN = {"player_mapping", "intrinsic_settings", "assigned_players", "meta_settings", "own_learning_settings"}
# Values of settings that RLlib annotates as text and does not check.
_CHOICES = {"batch_mode": BATCH_MODES}
# Settings that have a default and may be switched off.
_MAY_BE_NONE = ("grad_clip", "min_time_s_per_iteration", "target_worker_clipping", "train_batch_size")


def check(experiment: Experiment, where: str) -> type[Algorithm]:
    """Checks an experiment's algorithm, environment and every setting; starts nothing.

    Args:
        experiment: The experiment.
        where: The file, for messages.

    Returns:
        The algorithm's class.

    Raises:
        UserError: With the file, the key's path, what is wrong and the nearest valid name.
    """
    at = f"{where}: {experiment.name}"
    try:
        algorithm = algorithm_class(experiment.run)
    except KeyError:
        raise UserError(f"{at}.run: {experiment.run!r} is {unknown(experiment.run, algorithm_names())}") from None
    for number, settings in enumerate(variants(experiment.config)):
        try:
            config = build_config(algorithm, experiment.env, settings)
            if number == 0:
                for name in intrinsic_names():
                    if settings.get(name) and not _anybody_has(config, name):
                        nobody = "nobody reciprocates" if name == RECIPROCITY else "nobody is moved by it"
                        logger.warning("%s.config.%s: %s, so that it is not used", at, name, nobody)
                for metric in experiment.stop:
                    check_metric(metric, config, f"stop.{metric}")
                if experiment.metric:
                    check_metric(experiment.metric, config, f"metric: {experiment.metric}")
        except UserError as error:
            raise UserError(f"{at}.{error}") from None
    if not experiment.stop:
        raise UserError(f"{at}.stop: missing; say when a trial ends, as {{{ITERATIONS}: 100}}")
    return algorithm


def _anybody_has(config: AlgorithmConfig, name: str) -> bool:
    """Whether any player is moved by an intrinsic reward, or it is followed for whoever looks on."""
    if isinstance(config, BatchedConfig):
        return name in config.intrinsic_by_player() or config.intrinsic_settings[name].always
    return hasattr(config, "episode_reciprocity")


def check_memory(experiment: Experiment, algorithm: type[Algorithm], where: str) -> None:
    """Checks that one sample of our batched games can be held by this machine, if it is the one that samples.

    Raises:
        UserError: If it cannot.
    """
    if not issubclass(algorithm, BatchedAlgorithm):
        return
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for settings in variants(experiment.config):
        needed = build_config(algorithm, experiment.env, settings).sample_bytes()
        if needed > available:
            raise UserError(
                f"{where}: {experiment.name}.config.num_envs_per_env_runner: the samples of an iteration hold"
                f" {needed / 2**30:.0f} GiB, this machine {available / 2**30:.0f}"
            )


def build_config(algorithm: type[Algorithm], env: str | None, settings: dict[str, Any]) -> AlgorithmConfig:
    """A validated configuration from settings as in YAML files.

    Raises:
        UserError: With the key's path from ``config`` or ``env`` on.
    """
    config = algorithm.get_default_config()
    ours = isinstance(config, BatchedConfig)
    for key in ("players", *intrinsic_names()):
        if key not in settings:
            continue
        if not isinstance(config, SUPPORTED):
            raise UserError(
                f"config.{key}: not for {algorithm.__name__}, which learns from old transitions, whose influence was"
                f" that of old policies; run one of {', '.join(BATCHED)}, PPO, APPO and IMPALA"
            )
        if not ours and key not in ("players", RECIPROCITY):
            raise UserError(f"config.{key}: not for {algorithm.__name__}; run one of {', '.join(BATCHED)}")
    for key in ("players", *intrinsic_names(), "meta", "learning_players", "model_config", "env_config"):
        if not isinstance(settings.get(key, {}), dict):
            raise UserError(f"config.{key}: {settings[key]!r} is not a mapping")
    _check_settings(settings, config, "config")
    if ours:
        _check_game(algorithm.__name__, env, settings.get("env_config", {}))
    else:
        _check_stock_environment(env, settings)
    _check_own(settings, config)
    _check_parts(settings, config)
    try:
        config.environment(env)
        config.update_from_dict(algorithm_settings(settings))
        config.validate()
        if not ours and "players" in settings:
            check_modules(config)
    except ValidationError as error:
        raise UserError("config.{}: {}".format(*explain(error))) from None
    except Exception as error:  # RLlib, and environments, raise whatever settings lead them to
        logger.debug("Settings that cannot be", exc_info=True)
        problem = str(error) or type(error).__name__
        named = ours or problem.startswith(("players", "reciprocity", "env"))
        raise UserError(f"config.{problem}" if named else f"config: {problem}") from None
    return config


def _check_settings(settings: dict[str, Any], config: AlgorithmConfig, path: str) -> None:
    """Checks names, types and ranges of an algorithm's settings."""
    types = setting_types(type(config))
    known = _known_keys(config, types)
    for key, value in settings.items():
        if key not in known:
            raise UserError(f"{path}.{key}: {unknown(key, known)}")
        default = vars(config).get(_ALIASES.get(key, key))
        if value is None and default is not None and key not in _MAY_BE_NONE:
            raise UserError(f"{path}.{key}: is null; leave it out for the default, {default!r}")
        # The points of a schedule are looked at with the range. RLlib takes more schedules than its annotations say.
        scheduled = key in SCHEDULED and isinstance(value, list)
        if key in types and not scheduled:
            _check_type(f"{path}.{key}", value, types[key])
        elif isinstance(default, bool | int | float | str) and not scheduled:
            _check_type(f"{path}.{key}", value, float | int if isinstance(default, float) else type(default))
        check_range(f"{path}.{key}", key, value)
        if key in _CHOICES and value not in _CHOICES[key]:
            raise UserError(f"{path}.{key}: {value!r} is {unknown(value, _CHOICES[key])}")


def _check_parts(settings: dict[str, Any], config: AlgorithmConfig) -> None:
    """Checks settings of the algorithm that stand inside other settings: of single players, and of evaluation."""
    parts: dict[str, Any] = {"evaluation_config": settings.get("evaluation_config")}
    for key in ("players", "algorithm_config_overrides_per_module"):
        parts |= {f"{key}.{name}": part for name, part in (settings.get(key) or {}).items()}
    for path, part in parts.items():
        if isinstance(part, dict):
            own = {key: value for key, value in part.items() if key not in PLAYER_KEYS}
            if path.startswith("players"):
                own = {key: value for key, value in own.items() if key in (*OWN_SETTINGS, "lambda")}
            _check_settings(own, config, f"config.{path}")


def algorithm_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as RLlib takes them in a dict: ``model_config`` has another name there."""
    renamed = dict(settings)
    if "model_config" in renamed:
        renamed["_model_config"] = renamed.pop("model_config")
    return renamed


def setting_types(config_class: type[AlgorithmConfig]) -> dict[str, Any]:
    """Annotated types of all settings, by name, from the setters of the class and its parents."""
    types: dict[str, Any] = {}
    for owner in reversed(config_class.__mro__):
        for setter in _SETTERS:
            method = vars(owner).get(setter)
            if method is None:
                continue
            try:
                hints = get_type_hints(method)
            except NameError:  # RLlib imports some types only for type checkers
                hints = {name: hint for name, hint in method.__annotations__.items() if not isinstance(hint, str)}
            for name, parameter in inspect.signature(method).parameters.items():
                if parameter.kind is parameter.KEYWORD_ONLY and name in hints:
                    types[name] = hints[name]
    for alias, name in _ALIASES.items():
        if name in types:
            types[alias] = types[name]
    return types


def _known_keys(config: AlgorithmConfig, types: dict[str, Any]) -> set[str]:
    own = {key for key in vars(config) if not key.startswith("_")}
    gone = {key for key in own if getattr(config, key, None) is DEPRECATED_VALUE and key not in types}
    known = (own - gone) | set(types) | set(_ALIASES) | {"model_config", "train_batch_size_per_learner"}
    if isinstance(config, BatchedConfig):
        known |= {"players", "meta", "learning_players", *intrinsic_names()}
    elif isinstance(config, SUPPORTED):
        known |= {"players", RECIPROCITY}
    return known - _NOT_WRITTEN


def _check_type(path: str, value: Any, annotation: Any) -> None:
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except Exception:  # pydantic has no schema for some of RLlib's own types; validate() looks at those
        return
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        try:
            adapter.validate_json(json.dumps(value), strict=True)
        except (ValidationError, TypeError, ValueError):
            raise UserError(f"{path}: {explain(error)[1]}") from None
    except Exception:  # a schema that cannot be completed, because RLlib imports the type only for type checkers
        return


def _check_game(run: str, env: str | None, env_config: dict[str, Any]) -> None:
    if env is None:
        raise UserError(f"env: missing; {run} plays one of " + ", ".join(social_dilemmas.game_ids()))
    try:
        spec = social_dilemmas.spec(env)
    except ValueError as error:
        raise UserError(f"env: {error}") from None
    known = spec.settings()
    for name, value in env_config.items():
        if name not in known:
            raise UserError(f"config.env_config.{name}: {unknown(name, known)}")
        _check_type(f"config.env_config.{name}", value, known[name][0])
    try:
        spec.make(**env_config)
    except Exception as error:  # a game of the user's own raises what it likes
        raise UserError(f"config.env_config: {error}") from None


def _check_stock_environment(env: str | None, settings: dict[str, Any]) -> None:
    if env is None:
        raise UserError("env: missing")
    if environments.is_known(env):
        if "players" not in settings and "policies" not in settings:
            raise UserError(f'env: {env} has several players; say who they are, as players: {{"*": reciprocator}}')
        try:
            environments.register(env)
        except ValueError as error:
            raise UserError(f"env: {error}") from None
        return
    if env in gymnasium.registry or env_creator(env):
        return
    # A class by its path, or one of Gymnasium's that importing a module registers.
    module, separator, name = env.rpartition(":") if ":" in env else env.rpartition(".")
    if not separator or not module:
        raise UserError(f"env: {env!r} is {unknown(env, [*gymnasium.registry, *social_dilemmas.game_ids()])}")
    try:
        imported = import_module(module)
    except Exception as error:  # whatever a module of the user's own raises
        raise UserError(f"env: {env!r}: {module} cannot be imported ({error})") from None
    if name not in gymnasium.registry and not hasattr(imported, name):
        raise UserError(f"env: {env!r}: {module} has no {name!r}{did_you_mean(name, vars(imported))}")


def _check_own(settings: dict[str, Any], config: AlgorithmConfig) -> None:
    """Checks the settings that are this package's, and those of networks."""
    ours = isinstance(config, BatchedConfig)
    networks: dict[str, Any] = settings.get("model_config", {})
    models: dict[str, type[BaseModel]] = {
        **{name: intrinsic_reward(name).settings_class() for name in intrinsic_names()},
        "model_config": model_settings_class(networks if ours else {"model": "rllib"}),
    }
    if not ours and any("module" in str(player) for player in settings.get("players", {}).values()):
        del models["model_config"]  # a module class of the user's own has settings of its own
    if isinstance(config, BatchedConfig):
        models["meta"] = type(config.meta_settings)
    given = {key: settings.get(key, {}) for key in models}
    for name, player in settings.get("learning_players", {}).items():
        key = f"learning_players.{name}"
        if not isinstance(player, dict):
            raise UserError(f"config.{key}: {player!r} is not a mapping")
        if isinstance(player.get("model_config"), dict):
            models[f"{key}.model_config"], given[f"{key}.model_config"] = ModelSettings, player["model_config"]
        models[key], given[key] = LearningSettings, player
    for key, model in models.items():
        try:
            model.model_validate(given[key], strict=True)
        except ValidationError as error:
            names = {field.alias or name for name, field in model.model_fields.items()}
            path, problem = explain(error, names - ({"model"} if not ours else set()))
            raise UserError(f"config.{f'{key}.{path}' if path else key}: {problem}") from None
