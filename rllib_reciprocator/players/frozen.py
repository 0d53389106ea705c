"""Players of earlier runs, who no longer learn."""

from __future__ import annotations

import pickle
from pathlib import Path

import gymnasium
from ray import cloudpickle
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.checkpoints import Checkpointable


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
    file = folder / Checkpointable.CLASS_AND_CTOR_ARGS_FILE_NAME
    try:
        built = cloudpickle.loads(file.read_bytes())
        module_class, (_, arguments) = built["class"], built["ctor_args_and_kwargs"]
    except (OSError, pickle.UnpicklingError, EOFError, KeyError, ValueError, TypeError) as error:
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
