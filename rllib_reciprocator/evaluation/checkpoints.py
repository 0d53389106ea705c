"""Access to checkpoints, with errors for users."""

from __future__ import annotations

from pathlib import Path

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule

from rllib_reciprocator.utils import checkpoints
from rllib_reciprocator.utils.checkpoints import (
    MODULE_PATH,
    check_pickles,
    check_weights,
    find_checkpoint,
    warn_of_later_version,
)
from rllib_reciprocator.utils.errors import UserError, user_path


def find(folder_or_run: str | Path) -> Path:
    """Finds a checkpoint and checks that it is safe to load.

    See :func:`rllib_reciprocator.utils.checkpoints.find_checkpoint`.

    Args:
        folder_or_run: Folder of a checkpoint, or of a run, whose last checkpoint is used.

    Returns:
        Folder of the checkpoint.

    Raises:
        UserError: If there is no checkpoint, more than one trial has one, its pickles refer to objects that checkpoints
            may not contain, or its weights are not finite.
    """
    try:
        folder = find_checkpoint(user_path(str(folder_or_run), "checkpoint").resolve())
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
    """Returns the configuration of the algorithm that saved a checkpoint.

    Raises:
        UserError: If the file of the configuration cannot be read.
    """
    try:
        return checkpoints.read_config(checkpoint)
    except ValueError as error:
        raise UserError(str(error)) from None


def load_weights(module: MultiRLModule, sources: dict[str, Path]) -> None:
    """Loads the weights of several modules.

    Args:
        module: MultiRLModule of all players.
        sources: Folders of checkpointed modules, by the id of the module that the weights are loaded into.

    Raises:
        UserError: If the files in a folder cannot be read, or belong to a different module.
    """
    for module_id, folder in sources.items():
        load(module[module_id], folder)


def load(module: RLModule, folder: Path) -> None:
    """Loads the weights of a module from a folder.

    Raises:
        UserError: If the files in the folder cannot be read, or belong to a different module.
    """
    try:
        module.restore_from_path(folder)
    except Exception as error:  # broken files make pickle and PyTorch raise many types of exceptions
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{folder}: cannot load the weights ({reason[0]})") from None
