"""Module specs, policy mapping and module settings of RLlib algorithms, derived from ``players``."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.typing import AgentID, EpisodeType

from rllib_reciprocator.engine.context import PlayerKind
from rllib_reciprocator.engine.player_mapping import POOL, Player, assign, module_class
from rllib_reciprocator.intrinsic.reciprocity.settings import RECIPROCATOR, RECIPROCITY
from rllib_reciprocator.models.action_masks import MASK_START, mask_start
from rllib_reciprocator.models.masked_model import MaskedAPPOModule, MaskedPPOModule
from rllib_reciprocator.players import (
    AXELROD,
    CHECKPOINT,
    SCRIPTED,
    ScriptedModule,
)
from rllib_reciprocator.players.frozen import frozen_module_spec, remembered_inner_episodes
from rllib_reciprocator.rllib_episodes.env_spec import EnvSpec
from rllib_reciprocator.rllib_episodes.joint_steps import JointSpaces
from rllib_reciprocator.rllib_episodes.observations import filters_for, prepare_observations, seen_space
from social_dilemmas.registry import did_you_mean


@dataclass(frozen=True)
class PlayerModules:
    """Modules and settings that are derived from players.

    Attributes:
        spec: The module specs, by module id.
        trained: Ids of the modules that are trained.
        overrides: Config overrides of single modules, by module id.
        policy_mapping_fn: Returns the module id of an agent.
        names: Names of the players in results, by agent.
        reciprocators: The agents that reciprocate.
        with_own_module: The agents whose player has a module class of the user.
    """

    spec: MultiRLModuleSpec
    trained: list[str]
    overrides: dict[str, dict[str, Any]]
    policy_mapping_fn: Callable[..., str]
    names: dict[str, str]
    reciprocators: tuple[Any, ...]
    with_own_module: frozenset[Any]

    @property
    def module_ids(self) -> list[str]:
        """Returns the ids of all modules."""
        return list(self.spec.rl_module_specs)


def episode_player_kinds(learner: str) -> dict[str, PlayerKind]:
    """Returns the kinds of players that an algorithm of RLlib trains, by name.

    Args:
        learner: Name of the algorithm in lower case, e.g. ``ppo``.
    """
    reciprocator = PlayerKind(trained_as=learner, intrinsic={RECIPROCITY: {}})
    return {learner: PlayerKind(), RECIPROCATOR: reciprocator}


def player_modules(
    config: AlgorithmConfig,
    players: Mapping[str, Any],
    environment: EnvSpec,
    user_spec: MultiRLModuleSpec | RLModuleSpec | None = None,
) -> PlayerModules:
    """Derives module specs, policy mapping and settings of single modules from the players.

    Args:
        config: A config of an RLlib algorithm. Its attribute ``prepared_spaces`` is set.
        players: As for :func:`rllib_reciprocator.players.assign`.
        environment: The spec of the environment.
        user_spec: The user's ``rl_module_spec``, or None. It overrides the derived specs of players that learn.

    Returns:
        The modules and settings.

    Raises:
        ValueError: If a player is unknown, no player learns, members of a team differ in their spaces or settings, or
            the user's spec contains a module that is not trained.
    """
    learner = config.algo_class.__name__.lower()
    joint = environment.joint
    agents = {str(agent): agent for agent in joint.agents}
    kinds = episode_player_kinds(learner)
    assignments = assign(players, list(agents), environment.action_names, kinds, RECIPROCATOR)
    for player in assignments:
        _check_supported(player, learner)
    if not any(player.learns for player in assignments):
        raise ValueError(f"players: no player is trained; at least one must be {RECIPROCATOR} or {learner}")
    with_own_module = frozenset(agents[player.agent] for player in assignments if player.module)
    prepare_observations(config, None, joint, with_own_module)
    specs: dict[str, RLModuleSpec] = {}
    # The first player of each module; further players with the same module id belong to its team.
    first: dict[str, Player] = {}
    for player in assignments:
        teammate = first.setdefault(player.module_id, player)
        if teammate is player:
            spec = module_spec(config, player, joint, agents)
            specs[player.module_id] = _update_spec(spec, user_spec, player) if player.learns else spec
        else:
            _check_team(player, teammate, joint, agents)
    _check_user_spec(user_spec, first)
    multi_spec = (
        copy.copy(user_spec) if isinstance(user_spec, MultiRLModuleSpec) else MultiRLModuleSpec(rl_module_specs={})
    )
    multi_spec.rl_module_specs = specs
    return PlayerModules(
        spec=multi_spec,
        trained=[module_id for module_id, player in first.items() if player.learns],
        overrides={module_id: dict(player.overrides) for module_id, player in first.items() if player.overrides},
        policy_mapping_fn=partial(_module_of, {player.agent: player.module_id for player in assignments}),
        names={player.agent: player.name for player in assignments},
        reciprocators=tuple(agents[player.agent] for player in assignments if RECIPROCITY in player.intrinsic),
        with_own_module=with_own_module,
    )


def _update_spec(
    player_spec: RLModuleSpec, user_spec: MultiRLModuleSpec | RLModuleSpec | None, player: Player
) -> RLModuleSpec:
    """Returns the derived spec of a player that learns, updated with the user's spec of its module."""
    spec = user_spec.rl_module_specs.get(player.module_id) if isinstance(user_spec, MultiRLModuleSpec) else user_spec
    if spec is None:
        return player_spec
    if player.module and spec.module_class is not None:
        raise ValueError(
            f"players.{player.agent}.module: rl_module_spec sets a class for {player.module_id} too; set one of them"
        )
    merged_spec = copy.deepcopy(player_spec)
    merged_spec.update(spec)
    if player_spec.model_config is not None or spec.model_config is not None:
        player_config = player.settings.get("model_config") or {}
        merged_spec.model_config = {**player_spec._get_model_config(), **spec._get_model_config(), **player_config}
    return merged_spec


def _check_user_spec(user_spec: MultiRLModuleSpec | RLModuleSpec | None, players: Mapping[str, Player]) -> None:
    """Raises ValueError if the user's spec contains a module that is not trained."""
    trained_ids = [module_id for module_id, player in players.items() if player.learns]
    for module_id in user_spec.rl_module_specs if isinstance(user_spec, MultiRLModuleSpec) else ():
        if module_id not in players:
            raise ValueError(
                f"rl_module_spec.{module_id}: no player has this module{did_you_mean(module_id, trained_ids)}"
            )
        if module_id not in trained_ids:
            player_name = players[module_id].written
            raise ValueError(f"rl_module_spec.{module_id}: {player_name} defines its own module; remove this entry")


def _check_supported(player: Player, learner: str) -> None:
    """Raises ValueError if a player is supported by algorithms on the batched engine only."""
    if player.kind == POOL:
        raise ValueError(f"players.{player.agent}.pool: not supported by {learner}; use run: Reciprocator")
    for name, settings in player.intrinsic.items():
        if name != RECIPROCITY:
            raise ValueError(
                f"players.{player.agent}.intrinsic.{name}: not supported by {learner}; use run: Reciprocator"
            )
        if settings:
            raise ValueError(
                f"players.{player.agent}.intrinsic.{name}: settings per player are not supported by {learner};"
                f" set config.{name}"
            )


def _module_of(modules: dict[str, str], agent_id: AgentID, episode: EpisodeType | None = None, **kwargs: object) -> str:
    return modules[str(agent_id)]


def module_spec(config: AlgorithmConfig, player: Player, joint: JointSpaces, agents: dict[str, Any]) -> RLModuleSpec:
    """Returns the module spec of a player.

    Args:
        config: The config of the algorithm.
        player: The player.
        joint: The agents and their spaces.
        agents: The agent ids, by name.

    Raises:
        ValueError: If the player or one of its settings is not supported.
    """
    agent = agents[player.agent]
    env_space, action_space = joint.observations[agent], joint.actions[agent]
    module_space = seen_space(config, joint, agent)
    spaces = {"observation_space": module_space, "action_space": action_space}
    # Flattened observations contain the action mask at this index.
    start = mask_start(env_space, action_space) if module_space is not env_space else None
    if player.kind == SCRIPTED:
        # RLlib reads max_seq_len of every stateful module.
        settings = {"strategy": player.source, "max_seq_len": DefaultModelConfig().max_seq_len, MASK_START: start}
        return RLModuleSpec(ScriptedModule, model_config=settings, **spaces)
    if player.kind == AXELROD:
        raise ValueError(f"players.{player.agent}: {player.written} needs the batched engine; use run: Reciprocator")
    if player.kind == CHECKPOINT:
        spec = frozen_module_spec(player, **spaces)
        if remembered_inner_episodes(Path(player.source)) is not None:
            raise ValueError(
                f"players.{player.agent}: {player.written} has a memory across inner episodes and needs the batched"
                " engine; use run: Reciprocator, COALA, .."
            )
        return spec
    for name in player.overrides:
        if not hasattr(config, name):
            raise ValueError(f"players.{player.agent}.{name}: {config.algo_class.__name__} has no such setting")
    model_config = player.settings.get("model_config")
    if player.module:
        return RLModuleSpec(module_class(player), model_config=model_config)
    settings = {**_networks(config), **(model_config or {})}
    if start is not None:
        masked_class = MaskedAPPOModule if isinstance(config, APPOConfig) else MaskedPPOModule
        return RLModuleSpec(masked_class, model_config={**settings, MASK_START: start})
    if len(module_space.shape or ()) == 3 and not settings.get("conv_filters"):
        return RLModuleSpec(None, model_config={**settings, "conv_filters": filters_for(module_space.shape)})
    return RLModuleSpec(None, model_config=model_config)


def _networks(config: AlgorithmConfig) -> dict[str, Any]:
    """Returns RLlib's default model config, updated with the user's settings."""
    model_config = config._model_config
    model_config = (
        dataclasses.asdict(model_config) if isinstance(model_config, DefaultModelConfig) else dict(model_config or {})
    )
    return {**dataclasses.asdict(DefaultModelConfig()), **model_config}


def _check_team(player: Player, teammate: Player, joint: JointSpaces, agents: dict[str, Any]) -> None:
    for name, spaces in (("observation", joint.observations), ("action", joint.actions)):
        if spaces[agents[player.agent]] != spaces[agents[teammate.agent]]:
            raise ValueError(
                f"players.{player.agent}: its {name} space differs from that of {teammate.agent}, of the same team"
            )
    member_settings = [(member.kind, member.module, member.intrinsic, member.settings) for member in (player, teammate)]
    if member_settings[0] != member_settings[1]:
        raise ValueError(f"players.{player.agent}: settings differ from those of {teammate.agent}, of the same team")
