"""Frozen policies of earlier runs, and the settings and modules that they depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec

from rllib_reciprocator.intrinsic.registry import intrinsic_reward
from rllib_reciprocator.models import REMEMBERS
from rllib_reciprocator.models.exploration import without_exploration
from rllib_reciprocator.players.players import Player
from rllib_reciprocator.utils.checkpoints import (
    MODULE_PATH,
    check_pickles,
    check_weights,
    read_config,
    read_constructor,
    warn_of_later_version,
)
from rllib_reciprocator.utils.settings import IntrinsicSettings

if TYPE_CHECKING:
    from social_dilemmas.batched_game import BatchedGame


@dataclass(frozen=True)
class FrozenDependencies:
    """Settings and modules of an intrinsic reward that a frozen policy depends on.

    Attributes:
        settings: Settings of the intrinsic reward in the run that trained the policy.
        modules: Specs of RLModules of that run, by their module id without the suffix of the player.
        slot: Index of the policy's agent in that run.
    """

    settings: IntrinsicSettings
    modules: Mapping[str, RLModuleSpec]
    slot: int


def frozen_module_spec(
    player: Player, *, observation_space: gymnasium.Space, action_space: gymnasium.Space
) -> RLModuleSpec:
    """Builds the spec of a checkpointed module, with its class, settings and weights.

    Args:
        player: The player; its ``source`` is the folder of the module in a checkpoint.
        observation_space: Observation space of the agents in the environment.
        action_space: Action space of the agents in the environment.

    Raises:
        ValueError: If the folder cannot be read, its weights are not finite, or the module has other spaces.
    """
    folder = Path(player.source)
    try:
        spec = _checkpointed_spec(folder)
        for name, space in (("observation_space", observation_space), ("action_space", action_space)):
            if getattr(spec, name) != space:
                raise ValueError(f"{folder}: its {name} is {getattr(spec, name)}, that of the environment is {space}")
    except ValueError as error:
        raise ValueError(f"players.{player.agent}: {error}") from None
    return spec


def frozen_dependencies(player: Player, spec: RLModuleSpec, game: BatchedGame) -> dict[str, FrozenDependencies]:
    """Loads the intrinsic rewards of a frozen policy that has inputs in addition to observations, or pays incentives.

    Args:
        player: The player.
        spec: Spec of its module.
        game: The game that it is to play, with a single environment.

    Returns:
        Settings and modules by name of the intrinsic reward; empty if the policy depends on none.

    Raises:
        ValueError: If the checkpoint cannot be read or lacks one of the modules.
    """
    model_config = _settings_of(spec)
    if not (model_config.get("num_balances") or model_config.get("pays")):
        return {}
    folder = Path(player.source)
    checkpoint = folder.parents[len(MODULE_PATH.parts)]
    try:
        run = read_config(checkpoint)
        if not hasattr(run, "intrinsic_of_module"):
            return {}
        dependencies = {}
        for name, (settings, suffix, slot) in run.intrinsic_of_module(folder.name).items():
            build_specs = intrinsic_reward(name).part("modules")
            specs = build_specs(game, settings, run.gamma) if build_specs else {}
            dependencies[name] = FrozenDependencies(
                settings, {module_id: _of_run(checkpoint, module_id + suffix) for module_id in specs}, slot
            )
    except ValueError as error:
        raise ValueError(f"players.{player.agent}: {error}") from None
    return dependencies


def remembered_inner_episodes(folder: Path) -> int | None:
    """Returns the number of inner episodes in a meta-episode, for a frozen policy whose memory lives that long.

    Args:
        folder: Folder of its module in a checkpoint.

    Returns:
        The number in the run that trained it; None if its memory is reset in every episode.

    Raises:
        ValueError: If the checkpoint cannot be read.
    """
    settings = read_constructor(folder)[2].get("model_config")
    if not isinstance(settings, dict) or not settings.get(REMEMBERS):
        return None
    return read_config(folder.parents[len(MODULE_PATH.parts)]).inner_episodes()


def _of_run(checkpoint: Path, module_id: str) -> RLModuleSpec:
    """Builds the spec of a module in the checkpoint of a run that is not a player's, e.g. an influence estimator.

    Raises:
        ValueError: If the checkpoint has no such module.
    """
    folder = checkpoint / MODULE_PATH / module_id
    if not folder.is_dir():
        raise ValueError(f"{checkpoint}: has no module {module_id!r}, which its player needs")
    return _checkpointed_spec(folder)


def _checkpointed_spec(folder: Path) -> RLModuleSpec:
    warn_of_later_version(folder.parents[len(MODULE_PATH.parts)])
    module_class, _, arguments = read_constructor(folder)
    if not issubclass(module_class, RLModule) or "model_config" not in arguments:
        raise ValueError(f"{folder}: is not the folder of a module")
    check_pickles(folder)
    check_weights(folder)
    spec = RLModuleSpec(
        module_class,
        observation_space=arguments.get("observation_space"),
        action_space=arguments.get("action_space"),
        model_config=arguments["model_config"],
        load_state_path=str(folder),
    )
    # A frozen policy is not trained, so it acts without exploration.
    return without_exploration(spec)


def _settings_of(spec: RLModuleSpec) -> dict[str, Any]:
    return spec.model_config if isinstance(spec.model_config, dict) else {}
