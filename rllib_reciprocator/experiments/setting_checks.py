"""Checks the names, types and ranges of settings, because RLlib silently accepts unknown keys."""

from __future__ import annotations

import inspect
import json
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_reciprocator.engine import BatchedConfig
from rllib_reciprocator.engine.checks import BATCH_MODES
from rllib_reciprocator.engine.online_learner_settings import LearningSettings
from rllib_reciprocator.engine.player_mapping import OWN_SETTINGS, player_keys
from rllib_reciprocator.engine.registries import intrinsic_names, intrinsic_reward
from rllib_reciprocator.experiments.ranges import SCHEDULED, check_range
from rllib_reciprocator.intrinsic.reciprocity.settings import RECIPROCITY
from rllib_reciprocator.models.settings import ModelSettings, model_settings_class
from rllib_reciprocator.rllib_episodes.episode_settings import SUPPORTED
from rllib_reciprocator.utils.errors import UserError, explain, unknown
from rllib_reciprocator.utils.ray_internals import DEPRECATED_VALUE

_SETTERS = (
    "environment", "env_runners", "learners", "training", "callbacks", "evaluation", "offline_data", "multi_agent",
    "reporting", "checkpointing", "debugging", "fault_tolerance", "rl_module", "experimental", "api_stack",
    "framework", "resources",
)  # fmt: skip
# Name in YAML files -> parameter of the setter, for settings that RLlib calls by two names.
_ALIASES = {"lambda": "lambda_", "callbacks": "callbacks_class", "input": "input_"}
# Attributes of configurations that are set under other names.
_NOT_IN_FILES = {"player_mapping", "intrinsic_settings", "assigned_players", "meta_settings", "own_learning_settings"}
# Valid values of settings that RLlib annotates as strings and does not check.
_CHOICES = {"batch_mode": BATCH_MODES}
# Settings that have a default and can be disabled with None.
_MAY_BE_NONE = ("grad_clip", "min_time_s_per_iteration", "target_worker_clipping", "train_batch_size")


def check_settings(settings: dict[str, Any], config: AlgorithmConfig, path: str) -> None:
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
            check_type(f"{path}.{key}", value, types[key])
        elif isinstance(default, bool | int | float | str) and not is_schedule:
            check_type(f"{path}.{key}", value, float | int if isinstance(default, float) else type(default))
        check_range(f"{path}.{key}", key, value)
        if key in _CHOICES and value not in _CHOICES[key]:
            raise UserError(f"{path}.{key}: {value!r} is {unknown(value, _CHOICES[key])}")


def check_nested_settings(settings: dict[str, Any], config: AlgorithmConfig) -> None:
    """Checks algorithm settings that are nested in other settings: those of players, modules and evaluation."""
    parts: dict[str, Any] = {"evaluation_config": settings.get("evaluation_config")}
    for key in ("players", "algorithm_config_overrides_per_module"):
        parts |= {f"{key}.{name}": part for name, part in (settings.get(key) or {}).items()}
    for path, part in parts.items():
        if isinstance(part, dict):
            overrides = {key: value for key, value in part.items() if key not in player_keys()}
            if path.startswith("players"):
                overrides = {key: value for key, value in overrides.items() if key in _player_settings(config)}
            check_settings(overrides, config, f"config.{path}")


def _player_settings(config: AlgorithmConfig) -> set[str]:
    """Returns the names of the settings of the algorithm that a player can override."""
    kinds = config.player_kinds().values() if isinstance(config, BatchedConfig) else ()
    return {*OWN_SETTINGS, "lambda", *(name for kind in kinds for name in kind.settings)}


def check_package_settings(settings: dict[str, Any], config: AlgorithmConfig) -> None:
    """Checks the settings that this package adds to RLlib's, and those of the networks."""
    is_batched = isinstance(config, BatchedConfig)
    networks: dict[str, Any] = settings.get("model_config", {})
    models: dict[str, type[BaseModel]] = {
        **{name: intrinsic_reward(name).settings_class for name in intrinsic_names()},
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
    return known_keys - _NOT_IN_FILES


def check_type(path: str, value: object, annotation: Any) -> None:
    """Checks that the value of a setting is of the annotated type.

    Raises:
        UserError: If it is not. The message begins with ``path``.
    """
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
