"""Players of earlier runs, who no longer learn."""

from __future__ import annotations

from pathlib import Path

import gymnasium
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_reciprocator.checkpoints import check_pickles, check_weights, read_constructor
from rllib_reciprocator.players.players import Player


def frozen_module_spec(
    player: Player, *, observation_space: gymnasium.Space, action_space: gymnasium.Space
) -> RLModuleSpec:
    """The spec of a checkpointed module, with its class, settings and weights.

    Args:
        player: The player; its source is the module's own folder in a checkpoint.
        observation_space: What the game shows its players.
        action_space: What players can do.

    Raises:
        ValueError: If the folder cannot be read, its weights are not finite, or the module was made for other spaces.
    """
    folder = Path(player.source)
    try:
        module_class, _, arguments = read_constructor(folder)
        check_pickles(folder)
        check_weights(folder)
        for name, space in (("observation_space", observation_space), ("action_space", action_space)):
            if arguments.get(name) != space:
                raise ValueError(f"{folder}: its {name} is {arguments.get(name)}, the game's is {space}")
    except ValueError as error:
        raise ValueError(f"players.{player.seat}: {error}") from None
    return RLModuleSpec(
        module_class,
        observation_space=observation_space,
        action_space=action_space,
        model_config=arguments["model_config"],
        load_state_path=str(folder),
    )
