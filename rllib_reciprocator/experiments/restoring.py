"""Checkpoints that a new run starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm

from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.experiments.schema import Experiment, variants
from rllib_reciprocator.utils.checkpoints import (
    check_pickles,
    check_weights,
    describe,
    find_checkpoint,
    warn_of_later_version,
)
from rllib_reciprocator.utils.errors import UserError, user_path


def check_restore(experiment: Experiment) -> None:
    """Checks that the checkpoint to start from can be read and is of the same algorithm and environment.

    Raises:
        UserError: If the checkpoint cannot be used.
    """
    if experiment.restore:
        try:
            checkpoint = checkpoint_to_restore(experiment)
            warn_of_later_version(checkpoint)
            _check_same(checkpoint, experiment)
            check_pickles(checkpoint)
            check_weights(checkpoint)
        except ValueError as error:
            raise UserError(f"restore: {error}") from None


def checkpoint_to_restore(experiment: Experiment) -> Path:
    """Returns the checkpoint to start from."""
    return find_checkpoint(user_path(str(experiment.restore), "restore").resolve())


def restored_algorithm(algorithm: type[Algorithm], checkpoint: str) -> type[Algorithm]:
    """Returns a subclass of the algorithm that loads the state of a checkpoint in its setup."""

    class Restored(algorithm):
        def setup(self, config: dict[str, Any]) -> None:
            super().setup(config)
            self.restore_from_path(checkpoint)

    # With these names, checkpoints of the subclass refer to the algorithm itself.
    Restored.__name__, Restored.__qualname__ = algorithm.__name__, algorithm.__qualname__
    Restored.__module__ = algorithm.__module__
    return Restored


def _check_same(checkpoint: Path, experiment: Experiment) -> None:
    """Raises ValueError if the algorithm or environment of a checkpoint differs from that of an experiment."""
    metadata = describe(checkpoint)
    algorithm = algorithm_class(experiment.run).__name__
    if metadata.algorithm != algorithm:
        raise ValueError(
            f"{checkpoint}: is a checkpoint of {metadata.algorithm}, which {experiment.run} cannot start from; give one"
            f" of {experiment.run}, or run: {metadata.algorithm}"
        )
    trained_env = _game_of(metadata.env, metadata.env_config)
    for settings in variants(experiment.config):
        env_name = _game_of(experiment.env, settings.get("env_config"))
        if env_name != trained_env:
            raise ValueError(
                f"{checkpoint}: was trained in {trained_env}, but this run is in {env_name}; give a checkpoint of"
                f" {env_name}"
            )


def _game_of(env: str | None, env_config: object) -> str:
    """Returns the name of an environment; if it wraps a game, the name of the game is included."""
    name = str(env).rpartition(":")[2]
    game = env_config.get("game") if isinstance(env_config, dict) else None
    return f"{name} around {game.rpartition(':')[2]}" if isinstance(game, str) else name
