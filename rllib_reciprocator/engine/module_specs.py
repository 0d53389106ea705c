"""Which RLModules a configuration's players are, and what stands beside them."""

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
from rllib_reciprocator.players.frozen import brought_by, frozen_module_spec
from rllib_reciprocator.utils.settings import IntrinsicSettings

if TYPE_CHECKING:
    from rllib_reciprocator.engine.config import BatchedConfig
    from social_dilemmas.batched_game import BatchedGame


@dataclass
class ModuleSpecs:
    """The RLModules of a run.

    Attributes:
        of_players: Specs of the players' modules, by id.
        shared: Specs of modules beside them, as influence estimators.
        pool_members: For each agent the ids of the modules that may play it, with their shares of the games.
        learning: Ids of those that are trained.
        with_memory: Whether one of these has a memory.
        overrides: Settings of the algorithm that modules have to themselves.
        brought: What frozen players go by beside their modules: by agent and name of the intrinsic reward its settings,
            what the ids of its modules end in here, and which agent it was in its own run.
        brought_by: By agent and name of the intrinsic reward, which of the agent's pool members brought it.
    """

    of_players: dict[str, RLModuleSpec] = field(default_factory=dict)
    shared: dict[str, RLModuleSpec] = field(default_factory=dict)
    pool_members: list[list[tuple[str, float]]] = field(default_factory=list)
    learning: list[str] = field(default_factory=list)
    with_memory: bool = False
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    brought: dict[int, dict[str, tuple[IntrinsicSettings, str, int]]] = field(default_factory=dict)
    brought_by: dict[int, dict[str, int]] = field(default_factory=dict)


def build_module_specs(config: BatchedConfig, game: BatchedGame) -> ModuleSpecs:
    """The modules that a configuration's players ask for.

    Args:
        config: The configuration, with its players assigned.
        game: One copy of its game.

    Raises:
        ValueError: With the player or the setting at fault.
    """
    specs = ModuleSpecs()
    first: dict[str, Player] = {}
    for index, player in enumerate(config.assigned_players):
        specs.pool_members.append([])
        for each, share in player.pool_members:
            module_id = _module_id(player, each, specs)
            specs.pool_members[-1].append((module_id, share))
            teammate = first.setdefault(module_id, each)
            if teammate is each:
                _add(specs, config, game, index, module_id, each)
            else:
                _check_team(each, teammate)
        _check_pool(index, player, specs)
    _add_shared(specs, config, game)
    _check_distributions(specs, config)
    clash = set(specs.shared) & set(specs.of_players)
    if clash:
        raise ValueError(f"players: a team cannot be named {min(clash)!r}")
    return specs


def _module_id(player: Player, member: Player, specs: ModuleSpecs) -> str:
    """The id of a member's module: its agent's or its team's; of a pool's other members with what they are behind."""
    if player.kind != POOL or member.team:
        return member.module_id
    taken = [module_id for module_id, _ in specs.pool_members[-1]]
    if member.learns and player.agent not in taken:
        return player.agent
    short = member.written.partition("/")[2] if member.kind in (SCRIPTED, AXELROD, LEARNING) else member.written
    return f"{player.agent}+{f'{CHECKPOINT}_{len(taken)}' if member.kind == CHECKPOINT else short}"


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
        _add_brought(specs, game, index, player, spec)
    else:
        spec = _learner_spec(specs, config, game, player)
        specs.learning.append(module_id)
        if player.overrides:
            specs.overrides[module_id] = dict(player.overrides)
    specs.of_players[module_id] = spec


def _check_team(player: Player, teammate: Player) -> None:
    """Raises ValueError if two who share parameters are not alike."""
    alike = [replace(each, agent="", written="") for each in (player, teammate)]
    if alike[0] != alike[1]:
        raise ValueError(f"players.{player.agent}: not the settings of {teammate.agent}, of the same team")


def _check_pool(index: int, player: Player, specs: ModuleSpecs) -> None:
    """Raises ValueError if two members of a pool would have to be followed by what only one of them goes by."""
    having = [name for member, _ in player.pool_members for name in member.intrinsic]
    for name in (*having, *specs.brought.get(index, {})):
        if having.count(name) + (name in specs.brought.get(index, {})) > 1:
            raise ValueError(f"players.{player.agent}.pool: more than one member goes by {name}")


def _axelrod_spec(config: BatchedConfig, game: BatchedGame, player: Player) -> RLModuleSpec:
    """The module of a strategy of the Axelrod library."""
    if game.num_agents != 2 or game.payoffs is None:
        raise ValueError(f"players.{player.agent}: {player.written} plays matrix games of two")
    if not config.plays_whole_episodes(game):
        raise ValueError(f"players.{player.agent}: {player.written} needs rollout_fragment_length auto")
    # Each agent its own draws, and its own side of the table.
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
    """The settings of the module of a player that learns inside the environment."""
    settings = config.learning_settings()[player.source]
    few = None if game.observations is None else game.observations.tolist()
    at = f"learning_players.{player.source}.model_config"
    if settings.networks is None and few is None:
        raise ValueError(f"{at}: missing; {config.env} has too many observations for a table")
    if settings.networks is not None:
        if settings.networks.use_gru or settings.networks.use_lru or settings.networks.vf_share_layers:
            raise ValueError(f"{at}: use_gru, use_lru and vf_share_layers are for players that the algorithm trains")
        _check_networks(config.env, settings.networks.model_dump(), game, at)
    return {"learning": settings.model_dump(), "copies": config.group_size(), OBSERVATIONS: few}


def _learner_spec(specs: ModuleSpecs, config: BatchedConfig, game: BatchedGame, player: Player) -> RLModuleSpec:
    """The module of a player that learns."""
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
        extra = intrinsic_reward(name).part("model_settings")
        settings |= extra(game, config.intrinsic_of(player, name, game)) if extra else {}
    _check_networks(config.env, networks, game, "model_config")
    if networks.get("one_hot"):
        assert game.observations is not None
        settings[OBSERVATIONS] = game.observations.tolist()
    if settings["balance_use"] != "observes" and config.loss_of(player) != PPO_LOSS:
        raise ValueError(f"reciprocity.predict_balance_coeff: only for who learns by PPO, not for {player.algorithm}")
    own_networks = not player.module and networks["model"] != "rllib"
    if own_networks and networks["vf_share_layers"] and config.loss_of(player) in (POLICY_GRADIENT, ACTOR_CRITIC):
        raise ValueError(f"model_config.vf_share_layers: {player.algorithm} needs a critic of its own")
    built_in = config.module_class(player)
    needs_built_in = config.loss_of(player) == ACTOR_CRITIC or built_in is not ActorCriticModule
    if not own_networks and (settings[EXPLORES] or needs_built_in):
        what = f"{player.algorithm} needs" if not settings[EXPLORES] else "epsilon is for"
        raise ValueError(f"players.{player.agent}: {what} the networks of model_config.model actor_critic")
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
        except Exception as error:  # RLlib's models, and a user's own, raise whatever settings lead them to
            whose = f"players.{player.agent}: {player.module}" if player.module else "model_config: RLlib"
            raise ValueError(f"{whose} cannot build it ({error})") from None
    return spec


def _check_networks(env: Any, networks: dict[str, Any], game: BatchedGame, at: str) -> None:
    """Raises ValueError if observations are not what networks are for; ``at`` is where these are set."""
    if networks.get("one_hot") and game.observations is None:
        raise ValueError(f"{at}.one_hot: {env} has too many observations")
    filters, shape = networks.get("conv_filters"), game.observation_space.shape
    if not filters:
        return
    axes = 3 if num_classes(game.observation_space) is None else 2
    if shape is None or len(shape) != axes:
        raise ValueError(f"{at}.conv_filters: {env} shows {shape}, not planes x height x width, or a map")
    if axes == 3 and networks["model"] != "rllib" and not all(isinstance(each, int) for each in filters):
        raise ValueError(f"{at}.conv_filters: strides are for maps of classes; give output planes alone")


def _networks(config: BatchedConfig, player: Player) -> dict[str, Any]:
    """The settings of a learning player's networks: those of all, and its own."""
    if player.module:
        return {}
    of_all = dict(config._model_config if isinstance(config._model_config, dict) else vars(config._model_config))
    given = {**of_all, **player.settings.get("model_config", {})}
    return model_settings_class(given).model_validate(given).model_dump()


def _add_brought(specs: ModuleSpecs, game: BatchedGame, index: int, player: Player, spec: RLModuleSpec) -> None:
    """Adds what a frozen player goes by beside its module, with ids of their own."""
    suffix = f"+{player.agent}"
    for name, brought in brought_by(player, spec, game).items():
        if name in specs.brought.get(index, {}):
            raise ValueError(f"players.{player.agent}.pool: more than one frozen member goes by {name}")
        specs.brought.setdefault(index, {})[name] = (brought.settings, suffix, brought.slot)
        specs.brought_by.setdefault(index, {})[name] = len(specs.pool_members[index]) - 1
        for module_id, of_module in brought.modules.items():
            specs.shared[module_id + suffix] = of_module


def _check_distributions(specs: ModuleSpecs, config: BatchedConfig) -> None:
    """Raises ValueError if a player reports no probabilities, but learning or influence needs them."""
    estimators = [spec for spec in specs.shared.values() if issubclass(spec.module_class, InfluenceEstimator)]
    expects = any(spec.module_class.needs_behavior(spec.model_config or {}) for spec in estimators)
    for player, pool in zip(config.assigned_players, specs.pool_members, strict=True):
        for (member, _), (module_id, _) in zip(player.pool_members, pool, strict=True):
            spec = specs.of_players[module_id]
            is_checked = (expects or member.learns) and not spec.module_class.__module__.startswith(REPORTING)
            if is_checked and reports_distribution(spec.build(), time_axis=False) is False:
                raise ValueError(
                    f"players.{player.agent}: its module returns no {Columns.ACTION_DIST_INPUTS}, which"
                    + (" learning needs" if member.learns else f" counterfactual {POLICY} needs; set")
                    + ("" if member.learns else f" reciprocity.counterfactual to {MODELLED} or {UNIFORM}")
                )
            if expects and member.kind == AXELROD and is_stochastic(member.source):
                raise ValueError(
                    f"players.{player.agent}: {member.written} draws its actions and reports no probabilities; set"
                    f" reciprocity.counterfactual to {MODELLED} or {UNIFORM}"
                )


def _add_shared(specs: ModuleSpecs, config: BatchedConfig, game: BatchedGame) -> None:
    """Adds what intrinsic rewards need beside the policies."""
    players = [each for player in config.assigned_players for each, _ in player.pool_members]
    names = [name for each in players for name in each.intrinsic]
    names += [name for name, settings in config.intrinsic_settings.items() if settings.always]
    for name in dict.fromkeys(names):
        make = intrinsic_reward(name).part("modules")
        if make is None:
            continue
        for module_id, spec in make(game, config.intrinsic_of_all(name, game), config.gamma).items():
            specs.shared[module_id] = spec
            if "lr" in spec.model_config:
                specs.overrides[module_id] = {"lr": spec.model_config["lr"]}
