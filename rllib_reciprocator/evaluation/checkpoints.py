"""What a checkpoint says about the run it is of."""

from __future__ import annotations

from pathlib import Path

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule

from rllib_reciprocator.experiments.errors import UserError, user_path
from rllib_reciprocator.utils import checkpoints
from rllib_reciprocator.utils.checkpoints import (
    MODULE_PATH,
    check_pickles,
    check_weights,
    find_checkpoint,
    warn_of_later_version,
)


def find(written: str | Path) -> Path:
    """A checkpoint's folder, or the last one of a run's (:func:`rllib_reciprocator.utils.checkpoints.find_checkpoint`).

    Raises:
        UserError: If there is none, more than one trial has one, it asks for more than a checkpoint may when it is
            unpickled, or its weights are not finite.
    """
    try:
        folder = find_checkpoint(user_path(str(written), "checkpoint").resolve())
        warn_of_later_version(folder)
        for part in (
            MODULE_PATH,
            Path("env_runner", "env_to_module_connector"),
            Path("env_runner", "module_to_env_connector"),
        ):
            check_pickles(folder / part)
        check_weights(folder / MODULE_PATH)
        return folder
    except ValueError as error:
        raise UserError(str(error)) from None


def read_config(checkpoint: Path) -> AlgorithmConfig:
    """The configuration that a checkpoint was made with.

    Raises:
        UserError: If its file cannot be read.
    """
    try:
        return checkpoints.read_config(checkpoint)
    except ValueError as error:
        raise UserError(str(error)) from None


def load_weights(module: MultiRLModule, sources: dict[str, Path]) -> None:
    """Gives modules their weights.

    Args:
        module: Of all players.
        sources: Folder of a checkpointed module, by the id of the one that is to have its weights.

    Raises:
        UserError: If a folder's files cannot be read, or are of another module.
    """
    for module_id, folder in sources.items():
        load(module[module_id], folder)


def load(module: RLModule, folder: Path) -> None:
    """Gives a module the weights in a folder.

    Raises:
        UserError: If the folder's files cannot be read, or are of another module.
    """
    try:
        module.restore_from_path(folder)
    except Exception as error:  # pickle and PyTorch raise whatever a broken file leads them to
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{folder}: its weights cannot be loaded ({reason[0]})") from None
