"""Settings of a tournament, from its entrants and the options of the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

import social_dilemmas
from rllib_reciprocator.engine import BatchedConfig
from rllib_reciprocator.evaluation.checkpoints import read_config
from rllib_reciprocator.evaluation.frozen_runner import frozen_runner
from rllib_reciprocator.evaluation.tournament.entrants import Entrant
from rllib_reciprocator.evaluation.tournament.games import Tournament
from rllib_reciprocator.players import LEARNER_PREFIX, LEARNING, SCRIPTED
from rllib_reciprocator.players.frozen import remembered_inner_episodes
from rllib_reciprocator.utils.checkpoints import MODULE_PATH
from rllib_reciprocator.utils.errors import UserError
from social_dilemmas.registry import did_you_mean


def tournament(
    entrants: Sequence[Entrant],
    *,
    env: str | None = None,
    env_config: Mapping[str, Any] | None = None,
    games: int = 1000,
    seed: int = 0,
    explore: bool = True,
    pool: Sequence[str] = (),
    meta: Mapping[str, Any] | None = None,
    learning_players: Mapping[str, Mapping[str, Any]] | None = None,
    allow_other_env_config: bool = False,
) -> Tournament:
    """Builds a tournament in one of this package's games.

    Args:
        entrants: The entrants.
        env: Id of the game. Defaults to that of the first checkpoint.
        env_config: Settings of the game. Defaults to those of the first checkpoint if it is of the same game.
        games: Number of games per group, divided between its rotations over the agents.
        seed: Seed of all random numbers.
        explore: If True, actions are sampled; if False, the most probable ones are taken.
        pool: Names of the entrants that all entrants are ranked against. If empty, there is no ranking.
        meta: Settings of meta-episodes, ``inner_episodes`` and ``copies``. Defaults to those that the entrants were
            trained with.
        learning_players: Settings of online learners, by name. Defaults to those in the entrants' runs.
        allow_other_env_config: If True, entrants may have been trained in another game or with other settings of it.

    Raises:
        UserError: If the game is not known, or an entrant cannot play it.
    """
    configs = {entrant.name: read_config(entrant.checkpoint) for entrant in entrants if entrant.checkpoint}
    runs = {name: config for name, config in configs.items() if isinstance(config, BatchedConfig)}
    run = next(iter(runs.values()), None)
    if env is None and run is None:
        raise UserError("--env: give the game; no entrant is from a run in one of this package's games")
    if run is not None and env in (None, run.env):
        env, env_config = run.env, run.env_config if env_config is None else env_config
    try:
        social_dilemmas.spec(str(env))
    except ValueError as error:
        raise UserError(f"--env: {error}") from None
    config = BatchedConfig().environment(env, env_config=dict(env_config or {}))
    try:
        agents = config.make_game().agents
    except ValueError as error:
        raise UserError(f"--env-config: {error}") from None
    if not allow_other_env_config:
        for name, trained_config in configs.items():
            _check_env_config(name, trained_config.env, trained_config.env_config, str(env), config.env_config)
    names = [entrant.name for entrant in entrants]
    for name in pool:
        if name not in names:
            raise UserError(f"--pool {name}: no entrant has this name{did_you_mean(name, names)}")
    _set_learning_players(config, entrants, runs, learning_players or {})
    _set_meta_episodes(config, entrants, runs, meta or {})
    config.players(dict.fromkeys(agents, f"{SCRIPTED}/random"))
    result = Tournament(config, tuple(entrants), games, seed, explore, tuple(dict.fromkeys(pool)))
    # Builds a runner for every entrant, so that invalid ones are reported before the first game.
    for entrant in entrants:
        try:
            frozen_runner(config, dict.fromkeys(agents, entrant.player), episodes=1)
        except UserError as error:
            raise UserError(f"{entrant.name}: {error}") from None
    return result


def _check_env_config(
    name: str, trained_env: object, trained_config: Mapping[str, Any], env: str, config: Mapping[str, Any]
) -> None:
    """Raises UserError if an entrant was trained in a different game or with different settings of the game."""
    option = "to let it play, add --allow-other-env-config"
    if trained_env != env:
        raise UserError(f"{name}: was trained in {trained_env}, and the game is {env}; {option}")
    defaults = {key: default for key, (_, default) in social_dilemmas.spec(env).settings().items()}
    for key, default in defaults.items():
        trained_value, value = trained_config.get(key, default), config.get(key, default)
        if _as_lists(trained_value) != _as_lists(value):
            raise UserError(f"{name}: was trained with {key} {trained_value!r}, and the game has {value!r}; {option}")


def _as_lists(value: object) -> Any:
    """Converts tuples and arrays in a setting to lists, to compare settings."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _set_learning_players(
    config: BatchedConfig,
    entrants: Sequence[Entrant],
    runs: Mapping[str, BatchedConfig],
    overrides: Mapping[str, Mapping[str, Any]],
) -> None:
    """Sets the settings of online learners: those given, or else those of the runs of the other entrants.

    Raises:
        UserError: If two runs have different settings of an online learner, or a setting is not valid.
    """
    for name in overrides:
        try:
            config.learning_player(name, **overrides[name])
        except (TypeError, ValidationError) as error:
            raise UserError(f"--learning-players.{name}{_first_problem(error)}") from None
    for name in _online_learners(entrants):
        settings_by_entrant = {
            entrant: run.learning_settings()[name]
            for entrant, run in runs.items()
            if name in run.own_learning_settings or name in _online_learners_of(run)
        }
        if name in overrides or not settings_by_entrant:
            continue
        (first, settings), *rest = settings_by_entrant.items()
        for entrant, learning_settings in rest:
            if learning_settings.model_dump() != settings.model_dump():
                raise UserError(
                    f"learner/{name}: the runs of {first} and {entrant} have different settings of this online learner;"
                    f' give them, e.g. --learning-players \'{{"{name}": {{"lr": 1.0}}}}\''
                )
        config.own_learning_settings = {**config.own_learning_settings, name: settings}


def _set_meta_episodes(
    config: BatchedConfig, entrants: Sequence[Entrant], runs: Mapping[str, BatchedConfig], overrides: Mapping[str, Any]
) -> None:
    """Sets the settings of meta-episodes: those given, or else those of the entrants' runs.

    The runs that count are those of policies that remember inner episodes and, if an online learner takes part, all
    runs with meta-episodes.

    Raises:
        UserError: If two of these runs differ, or a setting is not valid.
    """
    meta_runs = {name: run for name, run in runs.items() if _online_learners(entrants) and run.plays_meta_episodes()}
    try:
        inner_episodes = {
            entrant.name: remembered_inner_episodes(folder / MODULE_PATH / entrant.player.rpartition("#")[2])
            for entrant in entrants
            if (folder := entrant.checkpoint)
        }
    except ValueError as error:
        raise UserError(str(error)) from None
    values_by_key = {
        "inner_episodes": {
            **{name: run.inner_episodes() for name, run in meta_runs.items()},
            **{name: number for name, number in inner_episodes.items() if number is not None},
        },
        "copies": {name: run.meta_settings.copies for name, run in meta_runs.items()},
    }
    settings = dict(overrides)
    for key, values in values_by_key.items():
        if key in overrides or not values:
            continue
        (first, value), *rest = values.items()
        for entrant, entrant_value in rest:
            if entrant_value != value:
                raise UserError(
                    f"{entrant}: was trained with meta.{key} {entrant_value}, and {first} with {value};"
                    f" give it, e.g. --meta '{{\"{key}\": {value}}}'"
                )
        settings[key] = value
    try:
        config.meta(**settings)
    except (TypeError, ValidationError) as error:
        raise UserError(f"--meta{_first_problem(error)}") from None


def _first_problem(error: TypeError | ValidationError) -> str:
    """Returns the first problem with invalid settings, as the end of an error message."""
    if isinstance(error, TypeError):
        return f": {error}"
    problem = error.errors()[0]
    return f".{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def _online_learners(entrants: Sequence[Entrant]) -> list[str]:
    """Returns the names of the online learners among the entrants."""
    return [entrant.player.partition("/")[2] for entrant in entrants if entrant.player.startswith(f"{LEARNER_PREFIX}/")]


def _online_learners_of(run: BatchedConfig) -> set[str]:
    """Returns the names of the online learners that played in a run."""
    members = [member for player in run.assigned_players for member, _ in player.pool_members]
    return {member.source for member in members if member.kind == LEARNING}
