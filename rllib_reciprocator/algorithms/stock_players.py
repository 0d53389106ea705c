"""Players on the seats of RLlib's own algorithms: modules, policy mapping and settings from one mapping."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec

from rllib_reciprocator.algorithms.known_environment import KnownEnvironment
from rllib_reciprocator.algorithms.stock_observations import filters_for, prepare_observations, seen_space
from rllib_reciprocator.connectors.joint_steps import JointSpaces
from rllib_reciprocator.models.action_masks import MASK_START, mask_start
from rllib_reciprocator.models.masked_model import MaskedAPPOModule, MaskedPPOModule
from rllib_reciprocator.players import AXELROD, CHECKPOINT, RECIPROCATOR, SCRIPTED, Player, ScriptedModule, assign
from rllib_reciprocator.players.frozen import frozen_module_spec


def seat_players(config: AlgorithmConfig, players: Mapping[str, Any], known: KnownEnvironment) -> tuple[Any, ...]:
    """Derives policies, modules, policy mapping and settings per module from who sits where; changes the configuration.

    Args:
        config: A configuration of an algorithm of RLlib's.
        players: As for :func:`rllib_reciprocator.players.assign`.
        known: The environment.

    Returns:
        The agents that reciprocate.

    Raises:
        ValueError: If a player is not known, nobody learns, or a team's members differ in their spaces or settings.
    """
    learner = config.algo_class.__name__.lower()
    joint = known.joint
    agents = {str(agent): agent for agent in joint.agents}
    seated = assign(players, list(agents), known.action_names, learner)
    if not any(player.learns for player in seated):
        raise ValueError(f"players: nobody learns; at least one must be {RECIPROCATOR} or {learner}")
    prepare_observations(config, joint, {agents[player.seat] for player in seated if player.module})
    specs: dict[str, RLModuleSpec] = {}
    first: dict[str, Player] = {}
    for player in seated:
        mate = first.setdefault(player.module_id, player)
        if mate is player:
            specs[player.module_id] = module_spec(config, player, joint, agents)
        else:
            _check_team(player, mate, joint, agents)
    trained = [module_id for module_id, player in first.items() if player.learns]
    config.multi_agent(
        policies=list(first),
        policy_mapping_fn=partial(_module_of, {player.seat: player.module_id for player in seated}),
        policies_to_train=trained,
        algorithm_config_overrides_per_module={
            **config.algorithm_config_overrides_per_module,
            **{module_id: dict(player.overrides) for module_id, player in first.items() if player.overrides},
        },
    )
    config.rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=specs))
    config.player_names = {player.seat: player.name for player in seated}
    return tuple(agents[player.seat] for player in seated if player.kind == RECIPROCATOR)


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
    agent = agents[player.seat]
    shown, actions = joint.observations[agent], joint.actions[agent]
    spaces = {"observation_space": seen_space(config, joint, agent), "action_space": actions}
    start = mask_start(shown, actions) if spaces["observation_space"] is not shown else None
    if player.kind == SCRIPTED:
        # RLlib asks whatever remembers for a length of sequences.
        settings = {"strategy": player.source, "max_seq_len": DefaultModelConfig().max_seq_len, MASK_START: start}
        return RLModuleSpec(ScriptedModule, model_config=settings, **spaces)
    if player.kind == AXELROD:
        raise ValueError(f"players.{player.seat}: {player.written} plays beside Reciprocator only (run: Reciprocator)")
    if player.kind == CHECKPOINT:
        return frozen_module_spec(player, **spaces)
    for name in player.overrides:
        if not hasattr(config, name):
            raise ValueError(f"players.{player.seat}.{name}: {config.algo_class.__name__} has no such setting")
    model_config = player.settings.get("model_config")
    if player.module:
        return RLModuleSpec(_module_class(player), model_config=model_config)
    settings = {**_networks(config), **(model_config or {})}
    if start is not None:
        masked = MaskedAPPOModule if isinstance(config, APPOConfig) else MaskedPPOModule
        return RLModuleSpec(masked, model_config={**settings, MASK_START: start})
    if len(shown.shape or ()) == 3 and not settings.get("conv_filters"):
        return RLModuleSpec(None, model_config={**settings, "conv_filters": filters_for(shown.shape)})
    return RLModuleSpec(None, model_config=model_config)


def _networks(config: AlgorithmConfig) -> dict[str, Any]:
    """RLlib's settings of default models, with the user's own."""
    given = config._model_config
    given = dataclasses.asdict(given) if isinstance(given, DefaultModelConfig) else dict(given or {})
    return {**dataclasses.asdict(DefaultModelConfig()), **given}


def _module_class(player: Player) -> type[RLModule]:
    module, colon, name = player.module.partition(":")
    at = f"players.{player.seat}: module/{player.module}"
    if not colon:
        raise ValueError(f"{at}: give PACKAGE.MODULE:CLASS")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{at}: cannot be imported ({error})") from None
    if not (isinstance(found, type) and issubclass(found, RLModule)):
        raise ValueError(f"{at}: is not a class of RLModules")
    return found


def _check_team(player: Player, mate: Player, joint: JointSpaces, agents: dict[str, Any]) -> None:
    for name, spaces in (("observation", joint.observations), ("action", joint.actions)):
        if spaces[agents[player.seat]] != spaces[agents[mate.seat]]:
            raise ValueError(f"players.{player.seat}: its {name} space is not that of {mate.seat}, of the same team")
    if (player.kind, player.module, player.settings) != (mate.kind, mate.module, mate.settings):
        raise ValueError(f"players.{player.seat}: not the settings of {mate.seat}, of the same team")
