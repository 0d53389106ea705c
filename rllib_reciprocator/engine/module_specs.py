"""Builds the RLModule specs of a configuration: those of policies and those of intrinsic rewards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_reciprocator.engine.intrinsic_reward import IntrinsicReward
from rllib_reciprocator.engine.player_mapping import POOL, Player, module_class
from rllib_reciprocator.models import (
    ACTS_WITH,
    EXPLORES,
    OBSERVATIONS,
    POLICY_INPUTS,
    REMEMBERS,
    WHOLE_EPISODES,
    ActorCriticModule,
    DefaultModelModule,
    PolicyInput,
)
from rllib_reciprocator.models.class_encoder import num_classes
from rllib_reciprocator.models.reporting import REPORTING, reports_distribution
from rllib_reciprocator.models.rllib_form import MODULE, MODULE_SETTINGS, AdaptedModule, takes_rllib_form
from rllib_reciprocator.models.settings import model_settings_class
from rllib_reciprocator.utils.import_paths import import_attribute
from rllib_reciprocator.utils.settings import IntrinsicSettings

if TYPE_CHECKING:
    from rllib_reciprocator.engine.config import BatchedConfig
    from rllib_reciprocator.engine.context import RunContext, Seat
    from social_dilemmas.batched_game import BatchedGame


@dataclass
class ModuleSpecs:
    """The RLModules of a run.

    Attributes:
        of_players: Specs of the players' modules, by module id.
        shared: Specs of all other modules, e.g. those of intrinsic rewards, by module id.
        learning: Ids of the trained modules.
        with_memory: If True, at least one trained module is recurrent.
        overrides: Settings of the algorithm that differ per module, by module id.
    """

    of_players: dict[str, RLModuleSpec] = field(default_factory=dict)
    shared: dict[str, RLModuleSpec] = field(default_factory=dict)
    learning: list[str] = field(default_factory=list)
    with_memory: bool = False
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class FrozenDependencies:
    """Intrinsic rewards of other runs that frozen policies need to act.

    Attributes:
        by_agent: By index of the agent and name of the intrinsic reward: its settings, the suffix of the ids of its
            modules in this run, and the index of the agent in the run that trained the policy.
        members: Index of the pool member that needs it, by index of the agent and name of the intrinsic reward.
        modules: Specs of the modules, by their id in this run.
    """

    by_agent: dict[int, dict[str, tuple[IntrinsicSettings, str, int]]] = field(default_factory=dict)
    members: dict[int, dict[str, int]] = field(default_factory=dict)
    modules: dict[str, RLModuleSpec] = field(default_factory=dict)


def build_module_specs(config: BatchedConfig, game: BatchedGame) -> ModuleSpecs:
    """Builds the specs of all modules that a configuration's players need.

    Args:
        config: The configuration, with assigned players. The module ids of its pool members, and the dependencies of
            its frozen policies, are set in place.
        game: One environment of the game.

    Raises:
        ValueError: If a player or a setting is invalid; the message names it.
    """
    config.set_modules(assign_module_ids(config.assigned_players))
    context, specs, dependencies = config.context(), ModuleSpecs(), FrozenDependencies()
    # The module of the first player with an id; further players with the same id belong to its team.
    first: dict[str, Seat] = {}
    for seat in context.seats():
        teammate = first.setdefault(seat.module_id, seat)
        if teammate is not seat:
            _check_team(seat.player, teammate.player)
            continue
        source = seat.player.player_source
        if source is not None:
            spec = source.module_spec(config, game, seat.player)
            _add_dependencies(dependencies, game, seat, spec)
            specs.of_players[seat.module_id] = spec
        else:
            # Reserves the position: the order of modules determines their initial weights.
            specs.of_players[seat.module_id] = RLModuleSpec()
    for index, player in enumerate(config.assigned_players):
        _check_pool(player, dependencies.by_agent.get(index, {}))
    config.set_dependencies(dependencies.by_agent, dependencies.members)
    rewards = {reward.name: reward for reward in config.build_intrinsic_rewards(context)}
    for seat in first.values():
        if seat.player.player_source is None:
            specs.of_players[seat.module_id] = _policy_spec(specs, config, context, rewards, seat.player)
            specs.learning.append(seat.module_id)
            if seat.player.overrides:
                specs.overrides[seat.module_id] = dict(seat.player.overrides)
    specs.shared.update(dependencies.modules)
    for reward in rewards.values():
        for module_id, spec in reward.module_specs().items():
            specs.shared[module_id] = spec
            if "lr" in spec.model_config:
                specs.overrides[module_id] = {"lr": spec.model_config["lr"]}
    _check_distributions(specs, context, rewards)
    clash = set(specs.shared) & set(specs.of_players)
    if clash:
        raise ValueError(f"players: a team cannot be named {min(clash)!r}")
    return specs


def assign_module_ids(players: tuple[Player, ...]) -> list[list[tuple[str, float]]]:
    """Returns the module ids and probabilities of the pool members of each agent.

    The id is that of the agent or team. Further members of a pool get the agent's id with their own name as a suffix.

    Args:
        players: The player of each agent.
    """
    pools = []
    for player in players:
        ids: list[str] = []
        for member, _ in player.pool_members:
            source = member.player_source
            if player.kind != POOL or member.team:
                ids.append(member.module_id)
            elif member.learns and player.agent not in ids:
                ids.append(player.agent)
            else:
                suffix = member.written if source is None else source.module_suffix(member, len(ids))
                ids.append(f"{player.agent}+{suffix}")
        pools.append([(module_id, share) for module_id, (_, share) in zip(ids, player.pool_members, strict=True)])
    return pools


def _add_dependencies(dependencies: FrozenDependencies, game: BatchedGame, seat: Seat, spec: RLModuleSpec) -> None:
    """Adds the dependencies of a frozen policy, e.g. modules of its intrinsic rewards, with module ids that are unique.

    Raises:
        ValueError: If another frozen policy in the pool has the same dependency.
    """
    player, suffix = seat.player, f"+{seat.player.agent}"
    source = player.player_source
    assert source is not None
    for name, (settings, modules, slot) in source.dependencies(player, spec, game).items():
        by_name = dependencies.by_agent.setdefault(seat.agent, {})
        if name in by_name:
            raise ValueError(f"players.{player.agent}.pool: more than one frozen member uses {name}")
        by_name[name] = (settings, suffix, slot)
        dependencies.members.setdefault(seat.agent, {})[name] = seat.member
        for module_id, module_spec in modules.items():
            dependencies.modules[module_id + suffix] = module_spec


def _check_team(player: Player, teammate: Player) -> None:
    """Raises ValueError if two players that share parameters have different settings."""
    settings = [replace(member, agent="", written="") for member in (player, teammate)]
    if settings[0] != settings[1]:
        raise ValueError(f"players.{player.agent}: settings differ from those of {teammate.agent}, of the same team")


def _check_pool(player: Player, frozen: Mapping[str, Any]) -> None:
    """Raises ValueError if several pool members of an agent use the same intrinsic reward.

    A tracker has one setting per agent, and thus follows one pool member only.

    Args:
        player: Player of the agent.
        frozen: Dependencies of its frozen policies, by name of the intrinsic reward.
    """
    names = [name for member, _ in player.pool_members for name in member.intrinsic]
    for name in (*names, *frozen):
        if names.count(name) + (name in frozen) > 1:
            raise ValueError(f"players.{player.agent}.pool: more than one member uses {name}")


def _policy_spec(
    specs: ModuleSpecs,
    config: BatchedConfig,
    context: RunContext,
    rewards: Mapping[str, IntrinsicReward[Any]],
    player: Player,
) -> RLModuleSpec:
    """Builds the module spec of a trainable player.

    Args:
        specs: Specs so far; ``with_memory`` is set in place.
        config: The configuration.
        context: Facts about the run.
        rewards: Intrinsic rewards of the run, by name.
        player: The player.

    Raises:
        ValueError: If the settings of networks, algorithm and environment do not fit together.
    """
    game, kind, rule = context.game, context.kind_of(player), context.rule_class(player)
    networks = _networks(config, player)
    specs.with_memory |= any(networks.get(name) for name in ("use_gru", "use_lru", "use_lstm"))
    inputs: list[PolicyInput] = []
    acts_with = []
    for name in player.intrinsic:
        reward_settings = config.intrinsic_of(player, name, game)
        inputs += rewards[name].policy_inputs(reward_settings)
        if rewards[name].acts_with_policy(reward_settings):
            acts_with.append(name)
    settings: dict[str, Any] = {
        POLICY_INPUTS: [policy_input.as_setting() for policy_input in inputs],
        ACTS_WITH: acts_with,
        WHOLE_EPISODES: context.whole_episodes and kind.spans_meta_episodes == context.samples_meta_episodes,
        REMEMBERS: kind.spans_meta_episodes,
        EXPLORES: player.settings.get("epsilon", config.epsilon) != 0.0,
    }
    check_networks(config.env, networks, game, "model_config")
    if networks.get("one_hot"):
        assert game.observations is not None
        settings[OBSERVATIONS] = game.observations.tolist()
    built_in = import_attribute(kind.module) if kind.module else ActorCriticModule
    uses_built_in = not player.module and networks["model"] != "rllib"
    if uses_built_in and networks["vf_share_layers"] and rule.separate_critic:
        raise ValueError(f"model_config.vf_share_layers: {player.algorithm} needs a separate critic; set it to false")
    if not uses_built_in and (settings[EXPLORES] or rule.needs_built_in_networks or kind.module):
        subject = f"{player.algorithm} needs" if not settings[EXPLORES] else "epsilon needs"
        raise ValueError(f"players.{player.agent}: {subject} the networks of model_config.model actor_critic")
    predicted = [policy_input.name for policy_input in inputs if policy_input.predicted]
    if predicted and not uses_built_in:
        raise ValueError(f"{predicted[0]}: can be predicted with model_config.model actor_critic only")
    if player.module:
        module = module_class(player)
        settings |= player.settings.get("model_config", {})
    elif networks.pop("model") == "rllib":
        module, settings = DefaultModelModule, {**settings, "rllib": networks}
    else:
        module, settings = built_in, {**networks, **settings}
        if kind.module_settings:
            settings |= import_attribute(kind.module_settings)(config, context, player)
    spec = RLModuleSpec(
        module, observation_space=game.observation_space, action_space=game.action_space, model_config=settings
    )
    if module is not built_in:
        try:
            built_module = spec.build()
            specs.with_memory |= bool(built_module.get_initial_state())
            if player.module and takes_rllib_form(built_module):
                if hasattr(built_module, "auxiliary_losses"):
                    raise ValueError("auxiliary_losses: for modules that take rows without a time axis only")
                spec.module_class = AdaptedModule
                shared_settings = {
                    name: settings[name] for name in (POLICY_INPUTS, ACTS_WITH, WHOLE_EPISODES, REMEMBERS)
                }
                spec.model_config = {**shared_settings, MODULE: player.module, MODULE_SETTINGS: settings}
        except Exception as error:  # RLlib's models and custom modules may raise any error.
            builder = f"players.{player.agent}: {player.module}" if player.module else "model_config: RLlib"
            raise ValueError(f"{builder} cannot build the module ({error})") from None
    return spec


def check_networks(env: Any, networks: Mapping[str, Any], game: BatchedGame, at: str) -> None:
    """Raises ValueError if networks do not fit the observation space.

    Args:
        env: Id of the environment.
        networks: Settings of the networks.
        game: One environment of the game.
        at: Path of these settings in the configuration, for the error message.
    """
    if networks.get("one_hot") and game.observations is None:
        raise ValueError(f"{at}.one_hot: {env} has too many observations")
    filters, shape = networks.get("conv_filters"), game.observation_space.shape
    if not filters:
        return
    axes = 3 if num_classes(game.observation_space) is None else 2
    if shape is None or len(shape) != axes:
        raise ValueError(f"{at}.conv_filters: {env} has observations {shape}, not planes x height x width, or a map")
    if axes == 3 and networks["model"] != "rllib" and not all(isinstance(layer, int) for layer in filters):
        raise ValueError(f"{at}.conv_filters: strides need maps of classes; give numbers of output planes only")


def _networks(config: BatchedConfig, player: Player) -> dict[str, Any]:
    """Returns the settings of a trainable player's networks, in which the player's override the shared ones."""
    if player.module:
        return {}
    shared_settings = dict(
        config._model_config if isinstance(config._model_config, dict) else vars(config._model_config)
    )
    settings = {**shared_settings, **player.settings.get("model_config", {})}
    return model_settings_class(settings).model_validate(settings).model_dump()


def _check_distributions(specs: ModuleSpecs, context: RunContext, rewards: Mapping[str, IntrinsicReward[Any]]) -> None:
    """Raises ValueError if a policy returns no action probabilities, but training or an intrinsic reward needs them."""
    reasons = [reward.needs_probabilities(specs.shared) for reward in rewards.values()]
    reason = next((text for text in reasons if text), "")
    for seat in context.seats():
        player, spec = seat.player, specs.of_players[seat.module_id]
        is_checked = (reason or player.learns) and not spec.module_class.__module__.startswith(REPORTING)
        if is_checked and reports_distribution(spec.build(), time_axis=False) is False:
            why = "which training needs" if player.learns else reason
            raise ValueError(f"players.{player.agent}: its module returns no {Columns.ACTION_DIST_INPUTS}, {why}")
        source = player.player_source
        if reason and source is not None and not source.reports_probabilities(player):
            raise ValueError(
                f"players.{player.agent}: {player.written} samples its actions and returns no probabilities, {reason}"
            )
