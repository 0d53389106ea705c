"""Reciprocity for RLlib's own algorithms: any environment, its own env runners, by one call."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils import force_list

from rllib_reciprocator.divergence import DivergenceCallback, StopsWhenDiverged
from rllib_reciprocator.episodes.additions import add_callbacks, given_connector
from rllib_reciprocator.episodes.influence import EpisodeReciprocity
from rllib_reciprocator.episodes.influence_callback import EpisodeInfluenceCallback
from rllib_reciprocator.episodes.influence_distributions import check_distributions
from rllib_reciprocator.episodes.joint_steps import JointSpaces
from rllib_reciprocator.episodes.known_environment import KnownEnvironment, known_environment
from rllib_reciprocator.episodes.learners import ReciprocalLearner, learner_with
from rllib_reciprocator.episodes.modules import assign_players
from rllib_reciprocator.episodes.observations import seen_space
from rllib_reciprocator.episodes.observe_balance import ObserveBalance
from rllib_reciprocator.episodes.observed_balance import space_with_balance
from rllib_reciprocator.episodes.reciprocal_rewards import AddReciprocalRewards
from rllib_reciprocator.influence import MixedRewardModelInfluence
from rllib_reciprocator.influence.reward_model import MODELLED, POLICY
from rllib_reciprocator.influence.specs import INFLUENCE_MODULE_ID, uniform_share
from rllib_reciprocator.intrinsic import ReciprocitySettings
from rllib_reciprocator.players import RECIPROCATOR
from rllib_reciprocator.ray_internals import drop_warnings
from social_dilemmas.registry import did_you_mean

SUPPORTED = (PPOConfig, APPOConfig, IMPALAConfig)
# Settings of reciprocity() that there are on RLlib's episodes; the others are of estimators for batched games.
SETTINGS = frozenset(
    {
        "reward",
        "weight",
        "balance_decay",
        "observe_balance",
        "balance_scale",
        "influence",
        "counterfactual",
        "uniform_share",
        "estimator_hiddens",
        "estimator_lr",
        "estimator_epochs",
        "estimator_minibatch_size",
        "tau",
        "buffer_iterations",
        "update_period_iters",
    }
)


def reciprocate(
    config: AlgorithmConfig,
    players: Mapping[str, Any] | None = None,
    *,
    horizon: int | None = None,
    **reciprocity: Any,
) -> AlgorithmConfig:
    """Makes agents of an RLlib algorithm Reciprocators.

    .. code-block:: python

        config = (
            PPOConfig()
            .environment("my_env")
            .multi_agent(policies=["a", "b"], policy_mapping_fn=lambda agent, episode, **kwargs: agent)
        )
        config = reciprocate(config, players={"a": "reciprocator", "b": "ppo"}, weight=0.5)
        algorithm = config.build_algo()

    Env runners compute influence with a learned reward model and write each step's weighted reciprocal reward into
    their episodes; a learner connector adds it to the rewards; the learners fit the reward model in between. Reported
    returns stay extrinsic. Influence is told between agents that act in the same step of the environment; those who are
    not there have none.

    Works with PPO, APPO and IMPALA. Not with algorithms that learn from old transitions (DQN, SAC): the influence in
    their replay would be that of policies and an estimator of long ago.

    Args:
        config: A configuration with an environment and its policies; it is changed.
        players: Who plays, by agent or pattern (:func:`rllib_reciprocator.players.assign`); policies, modules and
            policy mapping are then derived from that. If None, all agents reciprocate whose policies learn.
        horizon: Steps of a whole episode where that is fixed: the reward model then sees the time left. None for what
            the environment itself has as its ``horizon``.
        **reciprocity: As for :meth:`ReciprocatorConfig.reciprocity`; the settings in ``SETTINGS``.

    Returns:
        The configuration.

    Raises:
        ValueError: If the algorithm, a setting or an agent is not one that this can be done for.
    """
    drop_warnings()
    settings = episode_settings(config, reciprocity)
    known = known_environment(config)
    reciprocators = all_that_learn(config, known) if players is None else assign_players(config, players, known)
    return add_reciprocity(config, known, reciprocators, settings, horizon or known.horizon)


def add_reciprocity(
    config: AlgorithmConfig,
    known: KnownEnvironment,
    reciprocators: tuple[Any, ...],
    settings: ReciprocitySettings,
    horizon: int | None,
) -> AlgorithmConfig:
    """Adds callback, connectors, learner and estimator to a configuration.

    Raises:
        ValueError: If nobody reciprocates.
    """
    if not reciprocators:
        raise ValueError("players: nobody reciprocates; at least one must be reciprocator")
    joint = known.joint
    settings = settings.for_game(has_payoffs=known.has_payoffs, num_agents=len(joint.agents), gamma=config.gamma)
    learner = config.algo_class.__name__.lower()
    kinds = {str(agent): RECIPROCATOR if agent in reciprocators else learner for agent in joint.agents}
    config.player_names = {**kinds, **getattr(config, "player_names", {})}
    shared = config.episode_reciprocity = EpisodeReciprocity(
        joint=joint,
        reciprocators=reciprocators,
        settings=settings,
        horizon=horizon,
    )
    guarded = isinstance(config.algo_class, type) and issubclass(config.algo_class, StopsWhenDiverged)
    callbacks = [EpisodeInfluenceCallback] if guarded else [EpisodeInfluenceCallback, DivergenceCallback]
    add_callbacks(config, *callbacks)
    config.rl_module(rl_module_spec=_with_estimator(config, joint, settings))
    overrides = {**config.algorithm_config_overrides_per_module, INFLUENCE_MODULE_ID: {"lr": settings.estimator_lr}}
    config.multi_agent(algorithm_config_overrides_per_module=overrides)
    config.learners(
        learner_class=learner_with(ReciprocalLearner, config.learner_class),
        learner_connector=partial(_learner_pieces, given_connector(config._learner_connector, _learner_pieces), shared),
    )
    if settings.observe_balance:
        before = given_connector(config._env_to_module_connector, _runner_pieces)
        config.env_runners(env_to_module_connector=partial(_runner_pieces, before, shared))
    return config


def module_spaces(config: AlgorithmConfig, known: KnownEnvironment) -> dict[str, tuple[Any, Any]]:
    """What each module sees and does, by its id: observation and action space, the balance with it if it is shown."""
    joint = known.joint
    reciprocity: EpisodeReciprocity | None = getattr(config, "episode_reciprocity", None)
    observers = reciprocity.observers if reciprocity else ()
    spaces = {}
    for agent in joint.agents:
        seen = seen_space(config, joint, agent)
        if agent in observers:
            seen = space_with_balance(joint.observations[agent], len(joint.agents) - 1)
        spaces[config.policy_mapping_fn(agent, MultiAgentEpisode())] = (seen, joint.actions[agent])
    return spaces


def check_modules(config: AlgorithmConfig) -> None:
    """Builds every player's module once, so that what cannot be built is known before anything starts.

    Raises:
        ValueError: With what RLlib has to say, and who it is about.
    """
    spaces = module_spaces(config, known_environment(config))
    specs = config.get_multi_rl_module_spec(spaces=spaces).rl_module_specs
    modules = {}
    for module_id, (observation_space, action_space) in spaces.items():
        specs[module_id].observation_space, specs[module_id].action_space = observation_space, action_space
        try:
            modules[module_id] = specs[module_id].build()
        except Exception as error:  # whatever a user's own module raises
            raise ValueError(f"players: the module of {module_id} cannot be built: {error}") from None
    estimator = specs.get(INFLUENCE_MODULE_ID)
    if estimator and MixedRewardModelInfluence.needs_behavior(estimator.model_config):
        check_distributions(modules)


def episode_settings(config: AlgorithmConfig, given: dict[str, Any]) -> ReciprocitySettings:
    """The settings of reciprocity that an algorithm of RLlib's is given.

    Raises:
        ValueError: If it cannot have them.
    """
    if hasattr(config, "player_mapping"):
        name = config.algo_class.__name__
        raise ValueError(f"reciprocate: {name} has its players reciprocate by itself; set players and reciprocity")
    if not isinstance(config, SUPPORTED):
        names = ", ".join(each.__name__.removesuffix("Config") for each in SUPPORTED)
        raise ValueError(f"reciprocate: {config.algo_class.__name__} learns from old transitions; use one of {names}")
    if not (config.enable_rl_module_and_learner and config.enable_env_runner_and_connector_v2):
        raise ValueError("reciprocate: needs RLlib's new API stack (api_stack)")
    if config.num_aggregator_actors_per_learner:
        raise ValueError("num_aggregator_actors_per_learner: aggregators pass no joint steps on; set it to 0")
    for name in given:
        if name not in SETTINGS:
            raise ValueError(f"reciprocity.{name}: not for {config.algo_class.__name__}{did_you_mean(name, SETTINGS)}")
    settings = ReciprocitySettings.model_validate(given)
    if settings.influence not in ("auto", "reward"):
        raise ValueError(f"reciprocity.influence: {settings.influence} is Reciprocator's own; here it is reward")
    if settings.counterfactual == MODELLED:
        raise ValueError("reciprocity.counterfactual: modelled is Reciprocator's own; here it is policy or uniform")
    uniform_share(MixedRewardModelInfluence, settings)  # raises what cannot be
    return settings


def all_that_learn(config: AlgorithmConfig, known: KnownEnvironment) -> tuple[Any, ...]:
    """The agents whose policies learn."""
    trained, episode = config.policies_to_train, MultiAgentEpisode()
    agents = known.joint.agents
    if trained is None or callable(trained):
        return agents
    return tuple(agent for agent in agents if config.policy_mapping_fn(agent, episode) in trained)


def _with_estimator(config: AlgorithmConfig, joint: JointSpaces, settings: ReciprocitySettings) -> MultiRLModuleSpec:
    """The configuration's modules with the estimator among them."""
    estimator = RLModuleSpec(
        MixedRewardModelInfluence,
        observation_space=joint.state,
        action_space=joint.action,
        model_config={
            "hiddens": settings.estimator_hiddens,
            "epochs": settings.estimator_epochs,
            "minibatch_size": settings.estimator_minibatch_size,
            "counterfactual": settings.counterfactual or POLICY,
            "uniform_share": uniform_share(MixedRewardModelInfluence, settings),
            "tau": settings.tau,
            "future_weight": 0.0,
            "gamma": config.gamma,
            "buffer_iterations": settings.buffer_iterations,
            "update_period_iters": settings.update_period_iters,
        },
    )
    present = config._rl_module_spec
    several = isinstance(present, MultiRLModuleSpec)
    spec = copy.deepcopy(present) if several else MultiRLModuleSpec(rl_module_specs={})
    for module_id in config.policies:
        spec.rl_module_specs.setdefault(
            module_id, copy.deepcopy(present) if isinstance(present, RLModuleSpec) else RLModuleSpec()
        )
    spec.rl_module_specs[INFLUENCE_MODULE_ID] = estimator
    return spec


def _learner_pieces(before: Any, reciprocity: EpisodeReciprocity, *spaces: Any) -> list[Any]:
    """Ours, then the user's own."""
    return [AddReciprocalRewards(reciprocity), *(force_list(before(*spaces)) if before else [])]


def _runner_pieces(before: Any, reciprocity: EpisodeReciprocity, *args: Any, **kwargs: Any) -> list[Any]:
    """The user's own, then ours."""
    return [*(force_list(before(*args, **kwargs)) if before else []), ObserveBalance(reciprocity=reciprocity)]
