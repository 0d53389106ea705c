"""Callbacks, connectors, learner and modules of this package, composed with those that the user sets.

RLlib's setters replace: ``config.callbacks(Mine)`` drops callbacks that were set before. A configuration therefore
keeps what the user asked of this package (:class:`EpisodeSetup`), and :func:`compose` derives the attributes that RLlib
reads from that and from the user's own values. It runs when the setup is made and again when the configuration is
validated, so that the order of the user's calls does not matter.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils import force_list

import social_dilemmas
from rllib_reciprocator.intrinsic.reciprocity import ReciprocitySettings
from rllib_reciprocator.intrinsic.reciprocity.estimators import MixedRewardModelInfluence
from rllib_reciprocator.intrinsic.reciprocity.estimators.reward_model import MODELLED, POLICY
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID, uniform_share
from rllib_reciprocator.players import RECIPROCATOR
from rllib_reciprocator.rllib_episodes.config_utils import given_connector
from rllib_reciprocator.rllib_episodes.env_spec import EnvSpec, env_spec
from rllib_reciprocator.rllib_episodes.influence import EpisodeReciprocity
from rllib_reciprocator.rllib_episodes.influence_callback import EpisodeInfluenceCallback
from rllib_reciprocator.rllib_episodes.influence_distributions import check_distributions
from rllib_reciprocator.rllib_episodes.joint_steps import JointSpaces
from rllib_reciprocator.rllib_episodes.learners import PlayersLearner, ReciprocalLearner, learner_with
from rllib_reciprocator.rllib_episodes.modules import player_modules
from rllib_reciprocator.rllib_episodes.observations import prepare_observations, seen_space
from rllib_reciprocator.rllib_episodes.observe_balance import ObserveBalance
from rllib_reciprocator.rllib_episodes.observed_balance import space_with_balance
from rllib_reciprocator.rllib_episodes.outcomes_callback import EpisodeOutcomesCallback
from rllib_reciprocator.rllib_episodes.reciprocal_rewards import AddReciprocalRewards
from rllib_reciprocator.rllib_episodes.rewards_callback import RewardPerStepCallback
from rllib_reciprocator.utils.divergence import DivergenceCallback
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


@dataclass
class EpisodeSetup:
    """Holds the players and settings that a user asked for, for an algorithm of RLlib.

    Attributes:
        players: As for :func:`rllib_reciprocator.players.assign`; None for the policies of the configuration.
        reciprocity: Settings of reciprocity.
        horizon: Steps of a whole episode; None for the ``horizon`` of the environment.
        required: If True, at least one agent has to reciprocate.
        inspected: The environment's name or class, its ``env_config``, and what was learned about it.
    """

    players: Mapping[str, Any] | None
    reciprocity: dict[str, Any]
    horizon: int | None = None
    required: bool = False
    inspected: tuple[Any, dict[str, Any], EnvSpec] | None = None

    def environment(self, config: AlgorithmConfig) -> EnvSpec:
        """Returns the facts about the configuration's environment; builds one only if it is another than before.

        Raises:
            ValueError: As for :func:`env_spec`.
        """
        if self.inspected is None or self.inspected[0] != config.env or self.inspected[1] != config.env_config:
            self.inspected = config.env, copy.deepcopy(dict(config.env_config)), env_spec(config)
        return self.inspected[2]


@dataclass
class Composition:
    """Holds attributes of a configuration as the user set them, and as :func:`compose` set them.

    An attribute that differs from the one that :func:`compose` set was set by the user since.

    Attributes:
        user_values: Values that the user set, by attribute.
        composed_values: Values that :func:`compose` set, by attribute.
    """

    user_values: dict[str, Any] = field(default_factory=dict)
    composed_values: dict[str, Any] = field(default_factory=dict)

    def user_value(self, config: AlgorithmConfig, name: str) -> Any:
        """Returns the value of an attribute that the user set."""
        value = getattr(config, name)
        # Dictionaries are copied on the way through RLlib's and Tune's dict form of configurations.
        is_equal = isinstance(value, dict) and value == self.composed_values.get(name)
        if name not in self.composed_values or not (is_equal or value is self.composed_values[name]):
            self.user_values[name] = value
        return self.user_values[name]

    def copy(self) -> Composition:
        """Returns a copy that changes independently."""
        return Composition(dict(self.user_values), dict(self.composed_values))

    def set(self, config: AlgorithmConfig, name: str, value: Any) -> None:
        """Sets an attribute to the composition of the user's value and this package's."""
        setattr(config, name, value)
        self.composed_values[name] = value


def compose(config: AlgorithmConfig, setup: EpisodeSetup | None, composition: Composition) -> None:
    """Composes the attributes that RLlib reads with the user's own values; changes the configuration.

    Args:
        config: A configuration of an algorithm of RLlib's.
        setup: What the user asked for; None for metrics only.
        composition: The user's values and those of the last composition; it is changed.

    Raises:
        ValueError: If a player, a setting or the environment is not one that this can be done for.
    """
    callbacks: list[type[RLlibCallback]] = [RewardPerStepCallback]
    is_game = isinstance(config.env, str) and social_dilemmas.is_game(config.env)
    if is_game or (setup is not None and setup.environment(config).has_outcomes):
        callbacks.append(EpisodeOutcomesCallback)
    if setup is not None:
        callbacks += _compose_setup(config, setup, composition)
    user_callbacks = force_list(composition.user_value(config, "callbacks_class"))
    missing = [callback for callback in callbacks if callback not in user_callbacks]
    composition.set(config, "callbacks_class", [*user_callbacks, *missing])


def _compose_setup(config: AlgorithmConfig, setup: EpisodeSetup, composition: Composition) -> list[type[RLlibCallback]]:
    """Composes everything that depends on players and reciprocity; returns the callbacks that they need.

    Raises:
        ValueError: As for :func:`compose`.
    """
    settings = episode_settings(config, setup.reciprocity)
    known = setup.environment(config)
    overrides = dict(composition.user_value(config, "algorithm_config_overrides_per_module"))
    spec = composition.user_value(config, "_rl_module_spec")
    env_to_module = given_connector(composition.user_value(config, "_env_to_module_connector"))
    if setup.players is None:
        reciprocators = all_that_learn(config, known)
        names: dict[str, str] = {}
    else:
        _check_policies_follow_from_players(config, composition)
        players = player_modules(config, setup.players, known, spec)
        config.multi_agent(policies=players.module_ids, policies_to_train=players.trained)
        composition.set(config, "policy_mapping_fn", players.policy_mapping_fn)
        reciprocators, names, spec = players.reciprocators, players.names, players.spec
        overrides |= {key: {**overrides.get(key, {}), **own} for key, own in players.overrides.items()}
        env_to_module = prepare_observations(config, env_to_module, known.joint, players.with_own_module)
    learner = composition.user_value(config, "_learner_class") or config.get_default_learner_class()
    callbacks: list[type[RLlibCallback]] = []
    learner_connector = composition.user_value(config, "_learner_connector")
    mixin: type = PlayersLearner
    if reciprocators or setup.required or setup.players is None:
        shared = _reciprocity(config, known, reciprocators, settings, setup.horizon or known.horizon)
        config.episode_reciprocity = shared
        names = {**_names(config, known, reciprocators), **names}
        overrides[INFLUENCE_MODULE_ID] = {"lr": settings.estimator_lr}
        spec = _with_estimator(config, spec, known.joint, shared.settings)
        learner_connector = partial(learner_pieces, given_connector(learner_connector, learner_pieces), shared)
        if shared.settings.observe_balance:
            env_to_module = partial(runner_pieces, given_connector(env_to_module, runner_pieces), shared)
        callbacks, mixin = [EpisodeInfluenceCallback, DivergenceCallback], ReciprocalLearner
    else:
        vars(config).pop("episode_reciprocity", None)
    config.player_names = names
    composition.set(config, "algorithm_config_overrides_per_module", overrides)
    config._per_module_overrides = {}
    composition.set(config, "_rl_module_spec", spec)
    composition.set(config, "_env_to_module_connector", env_to_module)
    composition.set(config, "_learner_connector", learner_connector)
    composition.set(config, "_learner_class", learner_with(mixin, learner))
    return callbacks


def _check_policies_follow_from_players(config: AlgorithmConfig, composition: Composition) -> None:
    """Raises ValueError if the user set another mapping of agents to policies after the players."""
    previous = composition.composed_values.get("policy_mapping_fn")
    if previous is not None and config.policy_mapping_fn is not previous:
        raise ValueError("policy_mapping_fn: policies follow from players; set players alone")


def _reciprocity(
    config: AlgorithmConfig,
    known: EnvSpec,
    reciprocators: tuple[Any, ...],
    settings: ReciprocitySettings,
    horizon: int | None,
) -> EpisodeReciprocity:
    """Returns what runners and connectors need to know.

    Raises:
        ValueError: If no agent reciprocates.
    """
    if not reciprocators:
        raise ValueError("players: nobody reciprocates; at least one must be reciprocator")
    joint = known.joint
    decided = settings.for_game(has_payoffs=known.has_payoffs, num_agents=len(joint.agents), gamma=config.gamma)
    return EpisodeReciprocity(joint=joint, reciprocators=reciprocators, settings=decided, horizon=horizon)


def _names(config: AlgorithmConfig, known: EnvSpec, reciprocators: tuple[Any, ...]) -> dict[str, str]:
    learner = config.algo_class.__name__.lower()
    return {str(agent): RECIPROCATOR if agent in reciprocators else learner for agent in known.joint.agents}


def check_memory_of_turns(config: AlgorithmConfig, setup: EpisodeSetup) -> None:
    """Raises ValueError if policies with memory take turns and episodes are cut.

    RLlib does not find the memory of an agent that did not act in the last step before a cut (Ray 2.60).

    Args:
        config: The configuration, composed.
        setup: What it was composed of.
    """
    known = setup.environment(config)
    if not known.takes_turns or config.batch_mode == "complete_episodes" or config.in_evaluation:
        return
    spaces = module_spaces(config, known)
    specs = config.get_multi_rl_module_spec(spaces=spaces).rl_module_specs
    for module_id, (observation_space, action_space) in spaces.items():
        specs[module_id].observation_space, specs[module_id].action_space = observation_space, action_space
        with torch.random.fork_rng(devices=[]):
            module = specs[module_id].build()
        if module.is_stateful():
            raise ValueError(
                f"batch_mode: agents of {config.env} take turns, and {module_id} has a memory; set it to"
                " complete_episodes"
            )


def module_spaces(config: AlgorithmConfig, known: EnvSpec) -> dict[str, tuple[Any, Any]]:
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
    spaces = module_spaces(config, env_spec(config))
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


def all_that_learn(config: AlgorithmConfig, known: EnvSpec) -> tuple[Any, ...]:
    """The agents whose policies learn."""
    trained, episode = config.policies_to_train, MultiAgentEpisode()
    agents = known.joint.agents
    if trained is None or callable(trained):
        return agents
    return tuple(agent for agent in agents if config.policy_mapping_fn(agent, episode) in trained)


def _with_estimator(
    config: AlgorithmConfig, present: Any, joint: JointSpaces, settings: ReciprocitySettings
) -> MultiRLModuleSpec:
    """Returns the specs of the policies' modules, and that of the influence estimator.

    Args:
        config: The configuration, with its policies.
        present: The specs that the user set, for one module or several; None for RLlib's default.
        joint: The agents and their spaces.
        settings: Of reciprocity.
    """
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
    several = isinstance(present, MultiRLModuleSpec)
    spec = copy.deepcopy(present) if several else MultiRLModuleSpec(rl_module_specs={})
    for module_id in config.policies:
        spec.rl_module_specs.setdefault(
            module_id, copy.deepcopy(present) if isinstance(present, RLModuleSpec) else RLModuleSpec()
        )
    spec.rl_module_specs[INFLUENCE_MODULE_ID] = estimator
    return spec


def learner_pieces(before: Any, reciprocity: EpisodeReciprocity, *spaces: Any) -> list[Any]:
    """Returns this package's learner connectors and the user's own."""
    return [AddReciprocalRewards(reciprocity), *(force_list(before(*spaces)) if before else [])]


def runner_pieces(before: Any, reciprocity: EpisodeReciprocity, *args: Any, **kwargs: Any) -> list[Any]:
    """Returns the user's own env-to-module connectors and this package's."""
    return [*(force_list(before(*args, **kwargs)) if before else []), ObserveBalance(reciprocity=reciprocity)]
