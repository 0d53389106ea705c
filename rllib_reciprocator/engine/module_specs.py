"""Builds the RLModule specs of a configuration: those of policies and those of intrinsic rewards."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_reciprocator.engine.losses import ACTOR_CRITIC, POLICY_GRADIENT, PPO_LOSS
from rllib_reciprocator.intrinsic.reciprocity.estimators import InfluenceEstimator
from rllib_reciprocator.intrinsic.reciprocity.estimators.reward_model import MODELLED, POLICY, UNIFORM
from rllib_reciprocator.intrinsic.registry import intrinsic_reward
from rllib_reciprocator.models import (
    EXPLORES,
    OBSERVATIONS,
    REMEMBERS,
    WHOLE_EPISODES,
    ActorCriticModule,
    DefaultModelModule,
)
from rllib_reciprocator.models.class_encoder import num_classes
from rllib_reciprocator.models.reporting import REPORTING, reports_distribution
from rllib_reciprocator.models.settings import model_settings_class
from rllib_reciprocator.players import (
    AXELROD,
    CHECKPOINT,
    LEARNING,
    POOL,
    SCRIPTED,
    AxelrodModule,
    LearningModule,
    Player,
    ScriptedModule,
    module_class,
)
from rllib_reciprocator.players.axelrod_strategies import is_stochastic
from rllib_reciprocator.players.frozen import frozen_dependencies, frozen_module_spec
from rllib_reciprocator.utils.settings import IntrinsicSettings

if TYPE_CHECKING:
    from rllib_reciprocator.engine.config import BatchedConfig
    from social_dilemmas.batched_game import BatchedGame


@dataclass
class ModuleSpecs:
    """The RLModules of a run.

    Attributes:
        of_players: Specs of the players' modules, by module id.
        shared: Specs of all other modules, e.g. influence estimators, by module id.
        pool_members: For each agent, the module ids and probabilities of its pool members.
        learning: Ids of the trained modules.
        with_memory: If True, at least one trained module is recurrent.
        overrides: Settings of the algorithm that differ per module, by module id.
        frozen_dependencies: Dependencies of frozen policies, by index of the agent and name of the intrinsic reward:
            the settings of the reward, the suffix of the ids of its modules in this run, and the index of the agent in
            its own run.
        frozen_by_member: Index of the pool member that has the dependency, by index of the agent and name of the
            intrinsic reward.
    """

    of_players: dict[str, RLModuleSpec] = field(default_factory=dict)
    shared: dict[str, RLModuleSpec] = field(default_factory=dict)
    pool_members: list[list[tuple[str, float]]] = field(default_factory=list)
    learning: list[str] = field(default_factory=list)
    with_memory: bool = False
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    frozen_dependencies: dict[int, dict[str, tuple[IntrinsicSettings, str, int]]] = field(default_factory=dict)
    frozen_by_member: dict[int, dict[str, int]] = field(default_factory=dict)


def build_module_specs(config: BatchedConfig, game: BatchedGame) -> ModuleSpecs:
    """Builds the specs of all modules that a configuration's players need.

    Args:
        config: The configuration, with assigned players.
        game: One environment of the game.

    Raises:
        ValueError: If a player or a setting is invalid; the message names it.
    """
    specs = ModuleSpecs()
    first: dict[str, Player] = {}
    for index, player in enumerate(config.assigned_players):
        specs.pool_members.append([])
        for member, share in player.pool_members:
            module_id = _module_id(player, member, specs)
            specs.pool_members[-1].append((module_id, share))
            teammate = first.setdefault(module_id, member)
            if teammate is member:
                _add(specs, config, game, index, module_id, member)
            else:
                _check_team(member, teammate)
        _check_pool(index, player, specs)
    _add_shared(specs, config, game)
    _check_distributions(specs, config)
    clash = set(specs.shared) & set(specs.of_players)
    if clash:
        raise ValueError(f"players: a team cannot be named {min(clash)!r}")
    return specs


def _module_id(player: Player, member: Player, specs: ModuleSpecs) -> str:
    """Returns the id of a pool member's module.

    The id is that of the agent or team. Further members of a pool get the agent's id with their own name as a suffix.

    Args:
        player: Player of the agent.
        member: Pool member of that player, or the player itself.
        specs: Specs so far, with the previous pool members of the agent.
    """
    if player.kind != POOL or member.team:
        return member.module_id
    module_ids = [module_id for module_id, _ in specs.pool_members[-1]]
    if member.learns and player.agent not in module_ids:
        return player.agent
    short = member.written.partition("/")[2] if member.kind in (SCRIPTED, AXELROD, LEARNING) else member.written
    return f"{player.agent}+{f'{CHECKPOINT}_{len(module_ids)}' if member.kind == CHECKPOINT else short}"


def _add(
    specs: ModuleSpecs, config: BatchedConfig, game: BatchedGame, index: int, module_id: str, player: Player
) -> None:
    spaces = {"observation_space": game.observation_space, "action_space": game.action_space}
    if player.kind == SCRIPTED:
        spec = RLModuleSpec(ScriptedModule, model_config={"strategy": player.source}, **spaces)
    elif player.kind == LEARNING:
        spec = RLModuleSpec(LearningModule, model_config=_learning_settings(config, game, player), **spaces)
    elif player.kind == AXELROD:
        spec = _axelrod_spec(config, game, player)
    elif player.kind == CHECKPOINT:
        spec = frozen_module_spec(player, **spaces)
        _add_frozen_dependencies(specs, game, index, player, spec)
    else:
        spec = _learner_spec(specs, config, game, player)
        specs.learning.append(module_id)
        if player.overrides:
            specs.overrides[module_id] = dict(player.overrides)
    specs.of_players[module_id] = spec


def _check_team(player: Player, teammate: Player) -> None:
    """Raises ValueError if two players that share parameters have different settings."""
    settings = [replace(member, agent="", written="") for member in (player, teammate)]
    if settings[0] != settings[1]:
        raise ValueError(f"players.{player.agent}: settings differ from those of {teammate.agent}, of the same team")


def _check_pool(index: int, player: Player, specs: ModuleSpecs) -> None:
    """Raises ValueError if several pool members of an agent use the same intrinsic reward.

    A tracker has one setting per agent, and thus follows one pool member only.
    """
    names = [name for member, _ in player.pool_members for name in member.intrinsic]
    for name in (*names, *specs.frozen_dependencies.get(index, {})):
        if names.count(name) + (name in specs.frozen_dependencies.get(index, {})) > 1:
            raise ValueError(f"players.{player.agent}.pool: more than one member uses {name}")


def _axelrod_spec(config: BatchedConfig, game: BatchedGame, player: Player) -> RLModuleSpec:
    """Builds the module spec of a strategy of the Axelrod library.

    Raises:
        ValueError: If the environment is not a matrix game of two agents, or rollouts are not whole episodes.
    """
    if game.num_agents != 2 or game.payoffs is None:
        raise ValueError(f"players.{player.agent}: {player.written} needs a matrix game of two agents")
    if not config.plays_whole_episodes(game):
        raise ValueError(f"players.{player.agent}: {player.written} needs rollout_fragment_length auto")
    # Agents have different seeds, and see the payoff matrix from their side.
    index = game.agents.index(player.agent)
    payoffs = game.payoffs if index == 0 else game.payoffs.transpose(0, 1).flip(-1)
    settings = {
        "strategy": player.source,
        "payoffs": payoffs.tolist(),
        "seed": None if config.seed is None else [config.seed, index],
    }
    return RLModuleSpec(
        AxelrodModule,
        observation_space=game.observation_space,
        action_space=game.action_space,
        model_config=settings,
    )


def _learning_settings(config: BatchedConfig, game: BatchedGame, player: Player) -> dict[str, Any]:
    """Returns the ``model_config`` of an online learner's module.

    Raises:
        ValueError: If the online learner's networks do not fit the environment.
    """
    settings = config.learning_settings()[player.source]
    observations = None if game.observations is None else game.observations.tolist()
    path = f"learning_players.{player.source}.model_config"
    if settings.networks is None and observations is None:
        raise ValueError(f"{path}: missing; {config.env} has too many observations for a table")
    if settings.networks is not None:
        if settings.networks.use_gru or settings.networks.use_lru or settings.networks.vf_share_layers:
            raise ValueError(f"{path}: use_gru, use_lru and vf_share_layers are not supported for online learners")
        _check_networks(config.env, settings.networks.model_dump(), game, path)
    return {"learning": settings.model_dump(), "copies": config.group_size(), OBSERVATIONS: observations}


def _learner_spec(specs: ModuleSpecs, config: BatchedConfig, game: BatchedGame, player: Player) -> RLModuleSpec:
    """Builds the module spec of a trainable player.

    Raises:
        ValueError: If the settings of networks, algorithm and environment do not fit together.
    """
    networks = _networks(config, player)
    specs.with_memory |= any(networks.get(name) for name in ("use_gru", "use_lru", "use_lstm"))
    remembers = player.algorithm in config.remembering
    settings: dict[str, Any] = {
        "num_balances": 0,
        "balance_use": "observes",
        "balance_scale": 1.0,
        WHOLE_EPISODES: config.plays_whole_episodes(game) and remembers == config.samples_meta_episodes,
        REMEMBERS: remembers,
        EXPLORES: player.settings.get("epsilon", config.epsilon) != 0.0,
    }
    for name in player.intrinsic:
        build_settings = intrinsic_reward(name).part("model_settings")
        settings |= build_settings(game, config.intrinsic_of(player, name, game)) if build_settings else {}
    _check_networks(config.env, networks, game, "model_config")
    if networks.get("one_hot"):
        assert game.observations is not None
        settings[OBSERVATIONS] = game.observations.tolist()
    if settings["balance_use"] != "observes" and config.loss_of(player) != PPO_LOSS:
        raise ValueError(
            f"reciprocity.predict_balance_coeff: only for players trained by PPO, not for {player.algorithm}"
        )
    uses_built_in = not player.module and networks["model"] != "rllib"
    if uses_built_in and networks["vf_share_layers"] and config.loss_of(player) in (POLICY_GRADIENT, ACTOR_CRITIC):
        raise ValueError(f"model_config.vf_share_layers: {player.algorithm} needs a separate critic; set it to false")
    built_in = config.module_class(player)
    needs_built_in = config.loss_of(player) == ACTOR_CRITIC or built_in is not ActorCriticModule
    if not uses_built_in and (settings[EXPLORES] or needs_built_in):
        subject = f"{player.algorithm} needs" if not settings[EXPLORES] else "epsilon needs"
        raise ValueError(f"players.{player.agent}: {subject} the networks of model_config.model actor_critic")
    if player.module:
        module = module_class(player)
        settings |= player.settings.get("model_config", {})
    elif networks.pop("model") == "rllib":
        if settings["balance_use"] != "observes":
            raise ValueError("reciprocity.predict_balance_coeff: only for model_config.model actor_critic")
        module, settings = DefaultModelModule, {**settings, "rllib": networks}
    else:
        module, settings = built_in, {**networks, **settings}
    spec = RLModuleSpec(
        module, observation_space=game.observation_space, action_space=game.action_space, model_config=settings
    )
    if module is not built_in:
        try:
            spec.build()
        except Exception as error:  # RLlib's models and custom modules may raise any error.
            builder = f"players.{player.agent}: {player.module}" if player.module else "model_config: RLlib"
            raise ValueError(f"{builder} cannot build the module ({error})") from None
    return spec


def _check_networks(env: Any, networks: dict[str, Any], game: BatchedGame, at: str) -> None:
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
    shared = dict(config._model_config if isinstance(config._model_config, dict) else vars(config._model_config))
    settings = {**shared, **player.settings.get("model_config", {})}
    return model_settings_class(settings).model_validate(settings).model_dump()


def _add_frozen_dependencies(
    specs: ModuleSpecs, game: BatchedGame, index: int, player: Player, spec: RLModuleSpec
) -> None:
    """Adds the dependencies of a frozen policy, e.g. its influence estimator, with module ids that are unique.

    Raises:
        ValueError: If another frozen policy in the pool has the same dependency.
    """
    suffix = f"+{player.agent}"
    for name, dependencies in frozen_dependencies(player, spec, game).items():
        if name in specs.frozen_dependencies.get(index, {}):
            raise ValueError(f"players.{player.agent}.pool: more than one frozen member uses {name}")
        specs.frozen_dependencies.setdefault(index, {})[name] = (dependencies.settings, suffix, dependencies.slot)
        specs.frozen_by_member.setdefault(index, {})[name] = len(specs.pool_members[index]) - 1
        for module_id, module_spec in dependencies.modules.items():
            specs.shared[module_id + suffix] = module_spec


def _check_distributions(specs: ModuleSpecs, config: BatchedConfig) -> None:
    """Raises ValueError if a policy returns no action probabilities, but its training or the influence needs them."""
    estimators = [spec for spec in specs.shared.values() if issubclass(spec.module_class, InfluenceEstimator)]
    needs_behavior = any(spec.module_class.needs_behavior(spec.model_config or {}) for spec in estimators)
    for player, pool in zip(config.assigned_players, specs.pool_members, strict=True):
        for (member, _), (module_id, _) in zip(player.pool_members, pool, strict=True):
            spec = specs.of_players[module_id]
            is_checked = (needs_behavior or member.learns) and not spec.module_class.__module__.startswith(REPORTING)
            if is_checked and reports_distribution(spec.build(), time_axis=False) is False:
                raise ValueError(
                    f"players.{player.agent}: its module returns no {Columns.ACTION_DIST_INPUTS}, which"
                    + (" training needs" if member.learns else f" counterfactual {POLICY} needs; set")
                    + ("" if member.learns else f" reciprocity.counterfactual to {MODELLED} or {UNIFORM}")
                )
            if needs_behavior and member.kind == AXELROD and is_stochastic(member.source):
                raise ValueError(
                    f"players.{player.agent}: {member.written} samples its actions and returns no probabilities; set"
                    f" reciprocity.counterfactual to {MODELLED} or {UNIFORM}"
                )


def _add_shared(specs: ModuleSpecs, config: BatchedConfig, game: BatchedGame) -> None:
    """Adds the modules that intrinsic rewards need in addition to the policies, e.g. the influence estimator."""
    players = [member for player in config.assigned_players for member, _ in player.pool_members]
    names = [name for player in players for name in player.intrinsic]
    names += [name for name, settings in config.intrinsic_settings.items() if settings.always]
    for name in dict.fromkeys(names):
        build_specs = intrinsic_reward(name).part("modules")
        if build_specs is None:
            continue
        for module_id, spec in build_specs(game, config.intrinsic_of_all(name, game), config.gamma).items():
            specs.shared[module_id] = spec
            if "lr" in spec.model_config:
                specs.overrides[module_id] = {"lr": spec.model_config["lr"]}
