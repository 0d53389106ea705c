"""Checks the environment of an experiment and its settings."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import gymnasium

import social_dilemmas
from rllib_reciprocator.experiments.setting_checks import check_type
from rllib_reciprocator.rllib_episodes import environments
from rllib_reciprocator.utils.errors import UserError, unknown
from rllib_reciprocator.utils.ray_internals import env_creator
from social_dilemmas.registry import did_you_mean


def check_game(run: str, env: str | None, env_config: dict[str, Any]) -> None:
    """Checks that a game of this package exists and can be built with its settings.

    Args:
        run: Name of the algorithm, for messages.
        env: Id of the game.
        env_config: Settings of the game.

    Raises:
        UserError: If there is no such game, or a setting is invalid.
    """
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
        check_type(f"config.env_config.{name}", value, setting_specs[name][0])
    try:
        spec.make(**env_config)
    except Exception as error:  # a user-defined game can raise exceptions of any type
        raise UserError(f"config.env_config: {error}") from None


def check_rllib_environment(env: str | None, settings: dict[str, Any]) -> None:
    """Checks that RLlib can build an environment, and registers it if it is one of this package.

    Args:
        env: Id of the environment, or path of its class.
        settings: Settings of the algorithm.

    Raises:
        UserError: If there is no such environment, or agents have no players.
    """
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
