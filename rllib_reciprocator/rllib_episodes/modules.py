"""The players of RLlib's own algorithms: modules, policy mapping and settings from one mapping."""

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

from rllib_reciprocator.models.action_masks import MASK_START, mask_start
from rllib_reciprocator.models.masked_model import MaskedAPPOModule, MaskedPPOModule
from rllib_reciprocator.players import (
    AXELROD,
    CHECKPOINT,
    POOL,
    RECIPROCATOR,
    RECIPROCITY,
    SCRIPTED,
    Player,
    ScriptedModule,
    assign,
    module_class,
)
from rllib_reciprocator.players.frozen import frozen_module_spec, remembered_inner_episodes
from rllib_reciprocator.rllib_episodes.env_spec import EnvSpec
from rllib_reciprocator.rllib_episodes.joint_steps import JointSpaces
from rllib_reciprocator.rllib_episodes.observations import filters_for, prepare_observations, seen_space
from social_dilemmas.registry import did_you_mean


@dataclass(frozen=True)
class PlayerModules:
    """Modules and settings that follow from players.

    Attributes:
        spec: The modules' specs, by module id.
        trained: Ids of the modules that learn.
        overrides: Settings of single modules, by module id.
        policy_mapping_fn: Returns the module id of an agent.
        names: What the agents are called in results, by agent.
        reciprocators: The agents that reciprocate.
        with_own_module: The agents whose player names a module class of the user's.
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
        """Ids of all modules."""
        return list(self.spec.rl_module_specs)


def player_modules(
    config: AlgorithmConfig, players: Mapping[str, Any], known: EnvSpec, given: Any = None
) -> PlayerModules:
    """Derives modules, policy mapping and settings of single modules from the players.

    Args:
        config: A configuration of an algorithm of RLlib's; its ``prepared_spaces`` are set.
        players: As for :func:`rllib_reciprocator.players.assign`.
        known: The environment.
        given: The user's ``rl_module_spec``, if any: the modules of players that learn are made from it.

    Returns:
        What follows from the players.

    Raises:
        ValueError: If a player is not known, no player learns, a team's members differ in their spaces or settings, or
            the user's specs are of a module that no player learns with.
    """
    learner = config.algo_class.__name__.lower()
    joint = known.joint
    agents = {str(agent): agent for agent in joint.agents}
    assigned = assign(players, list(agents), known.action_names, (learner,))
    for player in assigned:
        _check_supported(player, learner)
    if not any(player.learns for player in assigned):
        raise ValueError(f"players: nobody learns; at least one must be {RECIPROCATOR} or {learner}")
    with_own_module = frozenset(agents[player.agent] for player in assigned if player.module)
    prepare_observations(config, None, joint, with_own_module)
    specs: dict[str, RLModuleSpec] = {}
    first: dict[str, Player] = {}
    for player in assigned:
        teammate = first.setdefault(player.module_id, player)
        if teammate is player:
            spec = module_spec(config, player, joint, agents)
            specs[player.module_id] = _with_given(spec, given, player) if player.learns else spec
        else:
            _check_team(player, teammate, joint, agents)
    _check_given(given, first)
    several = copy.copy(given) if isinstance(given, MultiRLModuleSpec) else MultiRLModuleSpec(rl_module_specs={})
    several.rl_module_specs = specs
    return PlayerModules(
        spec=several,
        trained=[module_id for module_id, player in first.items() if player.learns],
        overrides={module_id: dict(player.overrides) for module_id, player in first.items() if player.overrides},
        policy_mapping_fn=partial(_module_of, {player.agent: player.module_id for player in assigned}),
        names={player.agent: player.name for player in assigned},
        reciprocators=tuple(agents[player.agent] for player in assigned if player.reciprocates),
        with_own_module=with_own_module,
    )


def _with_given(derived: RLModuleSpec, given: Any, player: Player) -> RLModuleSpec:
    """Returns the spec of a player that learns, with what the user's spec of its module sets."""
    spec = given.rl_module_specs.get(player.module_id) if isinstance(given, MultiRLModuleSpec) else given
    if spec is None:
        return derived
    if player.module and spec.module_class is not None:
        raise ValueError(
            f"players.{player.agent}.module: rl_module_spec has a module class for {player.module_id} too; give one"
        )
    merged = copy.deepcopy(derived)
    merged.update(spec)
    if derived.model_config is not None or spec.model_config is not None:
        player_config = player.settings.get("model_config") or {}
        merged.model_config = {**derived._get_model_config(), **spec._get_model_config(), **player_config}
    return merged


def _check_given(given: Any, players: Mapping[str, Player]) -> None:
    """Raises ValueError if the user's specs are of a module that no player learns with."""
    learning = [module_id for module_id, player in players.items() if player.learns]
    for module_id in given.rl_module_specs if isinstance(given, MultiRLModuleSpec) else ():
        if module_id not in players:
            raise ValueError(
                f"rl_module_spec.{module_id}: no player has this module{did_you_mean(module_id, learning)}"
            )
        if module_id not in learning:
            written = players[module_id].written
            raise ValueError(f"rl_module_spec.{module_id}: {written} brings its own module; leave it out")


def _check_supported(player: Player, learner: str) -> None:
    """Raises ValueError if only the algorithms on the batched engine have such a player."""
    if player.kind == POOL:
        raise ValueError(f"players.{player.agent}.pool: not for {learner}; run Reciprocator")
    for name, settings in player.intrinsic.items():
        if name != RECIPROCITY:
            raise ValueError(f"players.{player.agent}.intrinsic.{name}: not for {learner}; run Reciprocator")
        if settings:
            raise ValueError(f"players.{player.agent}.intrinsic.{name}: is one for all here; set config.{name}")


def _module_of(modules: dict[str, str], agent_id: Any, episode: Any = None, **kwargs: Any) -> str:
    return modules[str(agent_id)]


def module_spec(config: AlgorithmConfig, player: Player, joint: JointSpaces, agents: dict[str, Any]) -> RLModuleSpec:
    """The module of a player.

    Args:
        config: Of the algorithm.
        player: The player.
        joint: The agents and their spaces.
        agents: The agents by name.

    Raises:
        ValueError: If the player cannot be had.
    """
    agent = agents[player.agent]
    shown, actions = joint.observations[agent], joint.actions[agent]
    seen = seen_space(config, joint, agent)
    spaces = {"observation_space": seen, "action_space": actions}
    start = mask_start(shown, actions) if seen is not shown else None
    if player.kind == SCRIPTED:
        # RLlib asks whatever remembers for a length of sequences.
        settings = {"strategy": player.source, "max_seq_len": DefaultModelConfig().max_seq_len, MASK_START: start}
        return RLModuleSpec(ScriptedModule, model_config=settings, **spaces)
    if player.kind == AXELROD:
        raise ValueError(f"players.{player.agent}: {player.written} plays in batched games only (run: Reciprocator)")
    if player.kind == CHECKPOINT:
        spec = frozen_module_spec(player, **spaces)
        if remembered_inner_episodes(Path(player.source)) is not None:
            raise ValueError(
                f"players.{player.agent}: {player.written} remembers inner episodes, and plays on the batched"
                " engine only (run: Reciprocator, COALA, ..)"
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
        masked = MaskedAPPOModule if isinstance(config, APPOConfig) else MaskedPPOModule
        return RLModuleSpec(masked, model_config={**settings, MASK_START: start})
    if len(seen.shape or ()) == 3 and not settings.get("conv_filters"):
        return RLModuleSpec(None, model_config={**settings, "conv_filters": filters_for(seen.shape)})
    return RLModuleSpec(None, model_config=model_config)


def _networks(config: AlgorithmConfig) -> dict[str, Any]:
    """RLlib's settings of default models, with the user's own."""
    given = config._model_config
    given = dataclasses.asdict(given) if isinstance(given, DefaultModelConfig) else dict(given or {})
    return {**dataclasses.asdict(DefaultModelConfig()), **given}


def _check_team(player: Player, teammate: Player, joint: JointSpaces, agents: dict[str, Any]) -> None:
    for name, spaces in (("observation", joint.observations), ("action", joint.actions)):
        if spaces[agents[player.agent]] != spaces[agents[teammate.agent]]:
            raise ValueError(
                f"players.{player.agent}: its {name} space is not that of {teammate.agent}, of the same team"
            )
    alike = [(each.kind, each.module, each.intrinsic, each.settings) for each in (player, teammate)]
    if alike[0] != alike[1]:
        raise ValueError(f"players.{player.agent}: not the settings of {teammate.agent}, of the same team")
