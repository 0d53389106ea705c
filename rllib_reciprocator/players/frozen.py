"""Frozen policies of earlier runs, and the settings and modules that they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec

from rllib_reciprocator.engine.player_sources import PlayerSource
from rllib_reciprocator.engine.registries import intrinsic_reward
from rllib_reciprocator.models import REMEMBERS
from rllib_reciprocator.models.exploration import without_exploration
from rllib_reciprocator.models.policy_inputs import ACTS_WITH
from rllib_reciprocator.utils.checkpoints import (
    MODULE_PATH,
    check_pickles,
    check_weights,
    find_checkpoint,
    module_in,
    read_config,
    read_constructor,
    warn_of_later_version,
)
from rllib_reciprocator.utils.settings import IntrinsicSettings

if TYPE_CHECKING:
    from rllib_reciprocator.engine.config import BatchedConfig
    from rllib_reciprocator.engine.player_mapping import Player
    from social_dilemmas.batched_game import BatchedGame

CHECKPOINT = "checkpoint"
# Settings of a module of version 0.1 that shows that it depends on intrinsic rewards of its run.
_ACTS_WITH_0_1 = ("num_balances", "pays")


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


def frozen_dependencies(
    player: Player, spec: RLModuleSpec, game: BatchedGame
) -> dict[str, tuple[IntrinsicSettings, dict[str, RLModuleSpec], int]]:
    """Loads the intrinsic rewards that a frozen policy needs to act as it was trained.

    Args:
        player: The player.
        spec: Spec of its module.
        game: The game that it is to play, with a single environment.

    Returns:
        By name of the intrinsic reward its settings, the specs of its modules and the index of the policy's agent in
        the run that trained it; empty if the policy depends on none.

    Raises:
        ValueError: If the checkpoint cannot be read or lacks one of the modules.
    """
    model_config = _settings_of(spec)
    if not any(model_config.get(name) for name in (ACTS_WITH, *_ACTS_WITH_0_1)):
        return {}
    folder = Path(player.source)
    checkpoint = folder.parents[len(MODULE_PATH.parts)]
    try:
        run = read_config(checkpoint)
        if not hasattr(run, "intrinsic_of_module"):
            return {}
        dependencies = {}
        for name, (settings, suffix, slot) in run.intrinsic_of_module(folder.name).items():
            specs = intrinsic_reward(name).build_module_specs(game, settings, run.gamma)
            modules = {module_id: _of_run(checkpoint, module_id + suffix) for module_id in specs}
            dependencies[name] = (settings, modules, slot)
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


class FrozenPlayers(PlayerSource):
    """Players ``checkpoint/PATH`` and ``checkpoint/PATH#AGENT``: frozen policies of earlier runs."""

    kind: ClassVar[str] = CHECKPOINT
    is_frozen: ClassVar[bool] = True

    def resolve(
        self, source: str, agent: str, action_names: Sequence[str] | None, online_learners: Sequence[str]
    ) -> str:
        """Returns the folder of the module in the checkpoint."""
        path, _, policy = source.partition("#")
        return str(module_in(find_checkpoint(Path(path).expanduser().resolve()), policy or agent))

    def names(self, online_learners: Sequence[str]) -> Sequence[str]:
        """Returns a placeholder."""
        return ("PATH",)

    def module_spec(self, config: BatchedConfig, game: BatchedGame, player: Player) -> RLModuleSpec:
        """Builds the spec of a checkpointed module, with its class, settings and weights."""
        return frozen_module_spec(player, observation_space=game.observation_space, action_space=game.action_space)

    def short_name(self, player: Player) -> str:
        """Returns the name without the path."""
        return f"{CHECKPOINT}/..#{Path(player.source).name}"

    def module_suffix(self, player: Player, member: int) -> str:
        """Returns the index in the pool, since paths are too long."""
        return f"{CHECKPOINT}_{member}"

    def inner_episodes(self, player: Player) -> int | None:
        """Returns the number of inner episodes of the run that trained the policy, if its memory lives that long."""
        return remembered_inner_episodes(Path(player.source))

    def dependencies(
        self, player: Player, spec: RLModuleSpec, game: BatchedGame
    ) -> dict[str, tuple[IntrinsicSettings, dict[str, RLModuleSpec], int]]:
        """Loads the intrinsic rewards that the policy needs; see :func:`frozen_dependencies`."""
        return frozen_dependencies(player, spec, game)


SOURCE = FrozenPlayers()
