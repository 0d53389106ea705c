"""Players of earlier runs, who no longer learn."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import gymnasium
from ray import cloudpickle
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.checkpoints import Checkpointable

MODULE_PATH = Path("learner_group", "learner", "rl_module")


def read_constructor(folder: Path) -> tuple[type, tuple, dict[str, Any]]:
    """The class of a checkpointed component, and the arguments it was built with.

    Args:
        folder: The component's folder in a checkpoint.

    Raises:
        ValueError: If its file cannot be read; the message says why, not where.
    """
    try:
        built = cloudpickle.loads((folder / Checkpointable.CLASS_AND_CTOR_ARGS_FILE_NAME).read_bytes())
        args, kwargs = built["ctor_args_and_kwargs"]
        return built["class"], args, kwargs
    except (
        OSError,
        pickle.UnpicklingError,
        EOFError,
        LookupError,
        ValueError,
        TypeError,
        ImportError,
        AttributeError,
    ) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def find_checkpoint(folder: Path) -> Path:
    """The checkpoint that a folder is, or the last one of the run that it is of.

    Args:
        folder: A checkpoint's folder, a trial's, or that of an experiment with one trial.

    Raises:
        ValueError: If there is none, or several trials have one.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such checkpoint")
    if (folder / MODULE_PATH).is_dir():
        return folder
    found = [_last(trial) for trial in (folder, *sorted(folder.iterdir())) if trial.is_dir()]
    last = [checkpoint for checkpoint in found if checkpoint]
    if len(last) > 1:
        trials = ", ".join(checkpoint.parent.name for checkpoint in last)
        raise ValueError(f"{folder}: has the checkpoints of {len(last)} trials; give one of {trials}")
    if not last:
        raise ValueError(f"{folder}: not an Algorithm checkpoint (it has no {MODULE_PATH}), nor a run with one")
    return last[0]


def _last(trial: Path) -> Path | None:
    """A trial's last whole checkpoint."""
    whole = (each for each in trial.glob("checkpoint_*") if (each / MODULE_PATH).is_dir())
    return max(whole, default=None, key=lambda each: each.name)


def frozen_module_spec(
    folder: Path, *, observation_space: gymnasium.Space, action_space: gymnasium.Space
) -> RLModuleSpec:
    """The spec of a checkpointed module, with its class, settings and weights.

    Args:
        folder: The module's own folder in a checkpoint.
        observation_space: What the game shows its players.
        action_space: What players can do.

    Raises:
        ValueError: If the folder cannot be read, or the module was made for other spaces.
    """
    try:
        module_class, _, arguments = read_constructor(folder)
    except ValueError as error:
        file = folder / Checkpointable.CLASS_AND_CTOR_ARGS_FILE_NAME
        raise ValueError(f"{file}: not a checkpointed RLModule ({error})") from None
    for name, space in (("observation_space", observation_space), ("action_space", action_space)):
        if arguments.get(name) != space:
            raise ValueError(f"{folder}: its {name} is {arguments.get(name)}, the game's is {space}")
    return RLModuleSpec(
        module_class,
        observation_space=observation_space,
        action_space=action_space,
        model_config=arguments["model_config"],
        load_state_path=str(folder),
    )
