"""Players of earlier runs, who no longer learn."""

from __future__ import annotations

from pathlib import Path

import gymnasium
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_reciprocator.checkpoints import check_pickles, check_weights, read_constructor


def frozen_module_spec(
    folder: Path, *, observation_space: gymnasium.Space, action_space: gymnasium.Space
) -> RLModuleSpec:
    """The spec of a checkpointed module, with its class, settings and weights.

    Args:
        folder: The module's own folder in a checkpoint.
        observation_space: What the game shows its players.
        action_space: What players can do.

    Raises:
        ValueError: If the folder cannot be read, its weights are not finite, or the module was made for other spaces.
    """
    module_class, _, arguments = read_constructor(folder)
    check_pickles(folder)
    check_weights(folder)
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
