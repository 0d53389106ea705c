"""Checks an experiment's settings against its algorithm, because RLlib takes unknown keys in silence."""

from __future__ import annotations

import inspect
import json
from typing import Any, get_type_hints

import gymnasium
from pydantic import ConfigDict, TypeAdapter, ValidationError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune.registry import ENV_CREATOR, _global_registry

import social_dilemmas
from rllib_reciprocator import environments
from rllib_reciprocator.algorithms.reciprocate import SUPPORTED, check_modules
from rllib_reciprocator.algorithms.reciprocator import ReciprocatorConfig
from rllib_reciprocator.algorithms.reciprocator.settings import ReciprocitySettings, model_settings_class
from rllib_reciprocator.algorithms.registry import algorithm_class, algorithm_names
from rllib_reciprocator.experiments.errors import UserError, explain, unknown
from rllib_reciprocator.experiments.schema import Experiment, variants

_SETTERS = (
    "environment", "env_runners", "learners", "training", "callbacks", "evaluation", "offline_data", "multi_agent",
    "reporting", "checkpointing", "debugging", "fault_tolerance", "rl_module", "experimental", "api_stack",
    "framework", "resources",
)  # fmt: skip
# Names in files -> parameters of setters, where RLlib has two for one setting.
_ALIASES = {"lambda": "lambda_", "callbacks": "callbacks_class", "input": "input_"}


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
    for settings in variants(experiment.config):
        try:
            build_config(algorithm, experiment.env, settings)
        except UserError as error:
            raise UserError(f"{at}.{error}") from None
    return algorithm


def build_config(algorithm: type[Algorithm], env: str | None, settings: dict[str, Any]) -> AlgorithmConfig:
    """A validated configuration from settings as in YAML files.

    Raises:
        UserError: With the key's path from ``config`` or ``env`` on.
    """
    config = algorithm.get_default_config()
    types = setting_types(type(config))
    known = _known_keys(config, types)
    ours = isinstance(config, ReciprocatorConfig)
    for key, value in settings.items():
        if key not in known:
            raise UserError(f"config.{key}: {unknown(key, known)}")
        if key in ("players", "reciprocity", "model_config", "env_config") and not isinstance(value, dict):
            raise UserError(f"config.{key}: {value!r} is not a mapping")
        if key in types:
            _check_type(f"config.{key}", value, types[key])
    if ours:
        _check_game(env, settings.get("env_config", {}))
        _check_own(settings)
    else:
        _check_stock_environment(env, settings)
    try:
        config.environment(env)
        config.update_from_dict(algorithm_settings(settings))
        config.validate()
        if not ours and "players" in settings:
            check_modules(config)
    except ValidationError as error:
        raise UserError("config.{}: {}".format(*explain(error))) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        named = ours or str(error).startswith(("players", "reciprocity", "env"))
        raise UserError(f"config.{error}" if named else f"config: {error}") from None
    return config


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
    known = own | set(types) | set(_ALIASES) | {"model_config", "train_batch_size_per_learner"}
    if isinstance(config, (ReciprocatorConfig, *SUPPORTED)):
        known |= {"players", "reciprocity"}
    return known - {"player_mapping", "reciprocity_settings"}


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


def _check_game(env: str | None, env_config: dict[str, Any]) -> None:
    if env is None:
        raise UserError("env: missing; Reciprocator plays one of " + ", ".join(social_dilemmas.game_ids()))
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
    except ValueError as error:
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
    importable = "." in env or ":" in env
    if not importable and env not in gymnasium.registry and not _global_registry.contains(ENV_CREATOR, env):
        raise UserError(f"env: {env!r} is {unknown(env, [*gymnasium.registry, *social_dilemmas.game_ids()])}")


def _check_own(settings: dict[str, Any]) -> None:
    networks = settings.get("model_config", {})
    for key, model in (("reciprocity", ReciprocitySettings), ("model_config", model_settings_class(networks))):
        try:
            model.model_validate(settings.get(key, {}), strict=True)
        except ValidationError as error:
            path, problem = explain(error, model.model_fields)
            raise UserError(f"config.{key}.{path}: {problem}") from None
