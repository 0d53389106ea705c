"""Players of earlier runs, who no longer learn, and what they go by."""

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
    """What a frozen player goes by of an intrinsic reward.

    Attributes:
        settings: As in its own run.
        modules: RLModules of its own run, by their id there.
        slot: Which agent it was there.
    """

    settings: IntrinsicSettings
    modules: Mapping[str, RLModuleSpec]
    slot: int


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
        spec = _checkpointed_spec(folder)
        for name, space in (("observation_space", observation_space), ("action_space", action_space)):
            if getattr(spec, name) != space:
                raise ValueError(f"{folder}: its {name} is {getattr(spec, name)}, the game's is {space}")
    except ValueError as error:
        raise ValueError(f"players.{player.agent}: {error}") from None
    return spec


def brought_by(player: Player, spec: RLModuleSpec, game: BatchedGame) -> dict[str, FrozenDependencies]:
    """What a frozen player sees beside observations or pays, and from what: by name of the intrinsic reward.

    Args:
        player: The player.
        spec: Of its module.
        game: One copy of the game that it is to play.

    Raises:
        ValueError: If its checkpoint lacks a part of it.
    """
    told = _settings_of(spec)
    if not (told.get("num_balances") or told.get("pays")):
        return {}
    folder = Path(player.source)
    checkpoint = folder.parents[len(MODULE_PATH.parts)]
    try:
        run = read_config(checkpoint)
        if not hasattr(run, "intrinsic_of_module"):
            return {}
        found = {}
        for name, (settings, suffix, slot) in run.intrinsic_of_module(folder.name).items():
            make = intrinsic_reward(name).part("modules")
            ids = make(game, settings, run.gamma) if make else {}
            found[name] = FrozenDependencies(settings, {each: _of_run(checkpoint, each + suffix) for each in ids}, slot)
    except ValueError as error:
        raise ValueError(f"players.{player.agent}: {error}") from None
    return found


def remembered_inner_episodes(folder: Path) -> int | None:
    """Returns the number of inner episodes in a meta-episode, for a frozen policy whose memory lives that long.

    Args:
        folder: Folder of its module in a checkpoint.

    Returns:
        The number in its own run; None if its memory ends with an episode.

    Raises:
        ValueError: If the checkpoint cannot be read.
    """
    settings = read_constructor(folder)[2].get("model_config")
    if not isinstance(settings, dict) or not settings.get(REMEMBERS):
        return None
    return read_config(folder.parents[len(MODULE_PATH.parts)]).inner_episodes()


def _of_run(checkpoint: Path, module_id: str) -> RLModuleSpec:
    """A module beside the players of a run.

    Raises:
        ValueError: If the checkpoint has none.
    """
    folder = checkpoint / MODULE_PATH / module_id
    if not folder.is_dir():
        raise ValueError(f"{checkpoint}: has no {module_id!r}, which its player goes by")
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
    # The module is not trained any more: it plays its policy itself.
    return without_exploration(spec)


def _settings_of(spec: RLModuleSpec) -> dict[str, Any]:
    return spec.model_config if isinstance(spec.model_config, dict) else {}
