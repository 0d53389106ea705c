"""Composes this package's callbacks, connectors, learner class and module specs with those that the user sets.

RLlib's setters replace previous values: ``config.callbacks(Mine)`` drops callbacks that were set before. A config
therefore stores the players and settings that the user asked for (:class:`EpisodeSetup`), and :func:`compose` derives
the attributes that RLlib reads from them and from the user's own values. It runs when the setup is created and again
when the config is validated, so that the order of the user's calls does not matter.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils import force_list

import social_dilemmas
from rllib_reciprocator.intrinsic.reciprocity import ReciprocitySettings
from rllib_reciprocator.intrinsic.reciprocity.estimators import MixedRewardModelInfluence
from rllib_reciprocator.intrinsic.reciprocity.estimators.reward_model import POLICY
from rllib_reciprocator.intrinsic.reciprocity.settings import RECIPROCATOR
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID, uniform_share
from rllib_reciprocator.rllib_episodes.config_utils import given_connector
from rllib_reciprocator.rllib_episodes.env_spec import EnvSpec, env_spec
from rllib_reciprocator.rllib_episodes.episode_settings import episode_settings
from rllib_reciprocator.rllib_episodes.influence import EpisodeReciprocity
from rllib_reciprocator.rllib_episodes.influence_callback import EpisodeInfluenceCallback
from rllib_reciprocator.rllib_episodes.joint_steps import JointSpaces
from rllib_reciprocator.rllib_episodes.learners import PlayersLearner, ReciprocalLearner, learner_with
from rllib_reciprocator.rllib_episodes.modules import player_modules
from rllib_reciprocator.rllib_episodes.observations import prepare_observations
from rllib_reciprocator.rllib_episodes.observe_balance import ObserveBalance
from rllib_reciprocator.rllib_episodes.outcomes_callback import EpisodeOutcomesCallback
from rllib_reciprocator.rllib_episodes.reciprocal_rewards import AddReciprocalRewards
from rllib_reciprocator.rllib_episodes.rewards_callback import RewardPerStepCallback
from rllib_reciprocator.utils.divergence import DivergenceCallback


@dataclass
class EpisodeSetup:
    """The players and the settings of reciprocity that a user asked for, for an RLlib algorithm.

    Attributes:
        players: As for :func:`rllib_reciprocator.players.assign`. If None, the policies of the config are used.
        reciprocity: Settings of reciprocity.
        horizon: Length of an episode in environment steps. If None, the ``horizon`` of the environment.
        required: If True, at least one agent has to reciprocate.
        inspected: Cache of :meth:`environment`: the environment's name or class, its ``env_config`` and its spec.
    """

    players: Mapping[str, Any] | None
    reciprocity: dict[str, Any]
    horizon: int | None = None
    required: bool = False
    inspected: tuple[Any, dict[str, Any], EnvSpec] | None = None

    def environment(self, config: AlgorithmConfig) -> EnvSpec:
        """Returns the spec of the config's environment. Builds the environment only if it changed since the last call.

        Raises:
            ValueError: As for :func:`env_spec`.
        """
        if self.inspected is None or self.inspected[0] != config.env or self.inspected[1] != config.env_config:
            self.inspected = config.env, copy.deepcopy(dict(config.env_config)), env_spec(config)
        return self.inspected[2]


@dataclass
class Composition:
    """Attributes of a config as the user set them, and as :func:`compose` set them.

    If an attribute differs from the value that :func:`compose` set, the user has set it since.

    Attributes:
        user_values: Values that the user set, by attribute.
        composed_values: Values that :func:`compose` set, by attribute.
    """

    user_values: dict[str, Any] = field(default_factory=dict)
    composed_values: dict[str, Any] = field(default_factory=dict)

    def user_value(self, config: AlgorithmConfig, name: str) -> Any:
        """Returns the value of an attribute that the user set."""
        value = getattr(config, name)
        # Dicts are compared by value: RLlib and Tune copy them when they convert a config to a dict and back.
        is_equal = isinstance(value, dict) and value == self.composed_values.get(name)
        if name not in self.composed_values or not (is_equal or value is self.composed_values[name]):
            self.user_values[name] = value
        return self.user_values[name]

    def copy(self) -> Composition:
        """Returns a copy that changes independently."""
        return Composition(dict(self.user_values), dict(self.composed_values))

    def set(self, config: AlgorithmConfig, name: str, value: object) -> None:
        """Sets an attribute of the config and records the value as composed."""
        setattr(config, name, value)
        self.composed_values[name] = value


def compose(config: AlgorithmConfig, setup: EpisodeSetup | None, composition: Composition) -> None:
    """Composes the attributes that RLlib reads from the setup and the user's own values.

    Args:
        config: A config of an RLlib algorithm. It is modified in place.
        setup: The players and settings that the user asked for. If None, only callbacks that log metrics are added.
        composition: The user's values and those of the last composition. It is modified in place.

    Raises:
        ValueError: If a player, a setting or the environment is not supported.
    """
    callbacks: list[type[RLlibCallback]] = [RewardPerStepCallback]
    is_game = isinstance(config.env, str) and social_dilemmas.is_game(config.env)
    if is_game or (setup is not None and setup.environment(config).has_outcomes):
        callbacks.append(EpisodeOutcomesCallback)
    if setup is not None:
        callbacks += _compose_setup(config, setup, composition)
    user_callbacks = force_list(composition.user_value(config, "callbacks_class"))
    new_callbacks = [callback for callback in callbacks if callback not in user_callbacks]
    composition.set(config, "callbacks_class", [*user_callbacks, *new_callbacks])


def _compose_setup(config: AlgorithmConfig, setup: EpisodeSetup, composition: Composition) -> list[type[RLlibCallback]]:
    """Composes the attributes that depend on players and reciprocity.

    Returns:
        The callbacks that players and reciprocity need.

    Raises:
        ValueError: As for :func:`compose`.
    """
    settings = episode_settings(config, setup.reciprocity)
    environment = setup.environment(config)
    overrides = dict(composition.user_value(config, "algorithm_config_overrides_per_module"))
    spec = composition.user_value(config, "_rl_module_spec")
    env_to_module = given_connector(composition.user_value(config, "_env_to_module_connector"))
    if setup.players is None:
        reciprocators = all_that_learn(config, environment)
        names: dict[str, str] = {}
    else:
        _check_policies_follow_from_players(config, composition)
        players = player_modules(config, setup.players, environment, spec)
        config.multi_agent(policies=players.module_ids, policies_to_train=players.trained)
        composition.set(config, "policy_mapping_fn", players.policy_mapping_fn)
        reciprocators, names, spec = players.reciprocators, players.names, players.spec
        overrides |= {
            module_id: {**overrides.get(module_id, {}), **player_overrides}
            for module_id, player_overrides in players.overrides.items()
        }
        env_to_module = prepare_observations(config, env_to_module, environment.joint, players.with_own_module)
    learner = composition.user_value(config, "_learner_class") or config.get_default_learner_class()
    callbacks: list[type[RLlibCallback]] = []
    learner_connector = composition.user_value(config, "_learner_connector")
    mixin: type = PlayersLearner
    if reciprocators or setup.required or setup.players is None:
        reciprocity = _reciprocity(config, environment, reciprocators, settings, setup.horizon or environment.horizon)
        config.episode_reciprocity = reciprocity
        names = {**_names(config, environment, reciprocators), **names}
        overrides[INFLUENCE_MODULE_ID] = {"lr": settings.estimator_lr}
        spec = _with_estimator(config, spec, environment.joint, reciprocity.settings)
        learner_connector = partial(learner_pieces, given_connector(learner_connector, learner_pieces), reciprocity)
        if reciprocity.settings.observe_balance:
            env_to_module = partial(runner_pieces, given_connector(env_to_module, runner_pieces), reciprocity)
        callbacks, mixin = [EpisodeInfluenceCallback, DivergenceCallback], ReciprocalLearner
    else:
        vars(config).pop("episode_reciprocity", None)
    config.player_names = names
    composition.set(config, "algorithm_config_overrides_per_module", overrides)
    # RLlib caches the config of each module here; the cache is outdated when the overrides change.
    config._per_module_overrides = {}
    composition.set(config, "_rl_module_spec", spec)
    composition.set(config, "_env_to_module_connector", env_to_module)
    composition.set(config, "_learner_connector", learner_connector)
    composition.set(config, "_learner_class", learner_with(mixin, learner))
    return callbacks


def _check_policies_follow_from_players(config: AlgorithmConfig, composition: Composition) -> None:
    """Raises ValueError if the user set a policy mapping after the players, from which it is derived."""
    previous = composition.composed_values.get("policy_mapping_fn")
    if previous is not None and config.policy_mapping_fn is not previous:
        raise ValueError("policy_mapping_fn: is derived from players and cannot be set as well; set players only")


def _reciprocity(
    config: AlgorithmConfig,
    environment: EnvSpec,
    reciprocators: tuple[Any, ...],
    settings: ReciprocitySettings,
    horizon: int | None,
) -> EpisodeReciprocity:
    """Returns the specification of reciprocity for env runners and connectors.

    Raises:
        ValueError: If no agent reciprocates.
    """
    if not reciprocators:
        raise ValueError("players: no player reciprocates; at least one must be reciprocator")
    joint = environment.joint
    env_settings = settings.for_game(
        has_payoffs=environment.has_payoffs, num_agents=len(joint.agents), gamma=config.gamma
    )
    return EpisodeReciprocity(joint=joint, reciprocators=reciprocators, settings=env_settings, horizon=horizon)


def _names(config: AlgorithmConfig, environment: EnvSpec, reciprocators: tuple[Any, ...]) -> dict[str, str]:
    learner = config.algo_class.__name__.lower()
    return {str(agent): RECIPROCATOR if agent in reciprocators else learner for agent in environment.joint.agents}


def all_that_learn(config: AlgorithmConfig, known: EnvSpec) -> tuple[Any, ...]:
    """Returns the agents whose policies are trained; all agents if ``policies_to_train`` is None or a function."""
    policy_ids, episode = config.policies_to_train, MultiAgentEpisode()
    agents = known.joint.agents
    if policy_ids is None or callable(policy_ids):
        return agents
    return tuple(agent for agent in agents if config.policy_mapping_fn(agent, episode) in policy_ids)


def _with_estimator(
    config: AlgorithmConfig, user_spec: Any, joint: JointSpaces, settings: ReciprocitySettings
) -> MultiRLModuleSpec:
    """Returns the module specs of the policies and of the influence estimator.

    Args:
        config: The config with its policies.
        user_spec: The spec that the user set, of a single module or of several. If None, RLlib's default modules.
        joint: The agents and their spaces.
        settings: Settings of reciprocity.
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
    is_multi = isinstance(user_spec, MultiRLModuleSpec)
    spec = copy.deepcopy(user_spec) if is_multi else MultiRLModuleSpec(rl_module_specs={})
    for module_id in config.policies:
        spec.rl_module_specs.setdefault(
            module_id, copy.deepcopy(user_spec) if isinstance(user_spec, RLModuleSpec) else RLModuleSpec()
        )
    spec.rl_module_specs[INFLUENCE_MODULE_ID] = estimator
    return spec


def learner_pieces(
    user_connectors: Callable[..., Any] | None, reciprocity: EpisodeReciprocity, *spaces: object
) -> list[Any]:
    """Returns this package's learner connectors, followed by the user's own."""
    return [AddReciprocalRewards(reciprocity), *(force_list(user_connectors(*spaces)) if user_connectors else [])]


def runner_pieces(
    user_connectors: Callable[..., Any] | None, reciprocity: EpisodeReciprocity, *args: object, **kwargs: object
) -> list[Any]:
    """Returns the user's own env-to-module connectors, followed by this package's."""
    return [
        *(force_list(user_connectors(*args, **kwargs)) if user_connectors else []),
        ObserveBalance(reciprocity=reciprocity),
    ]
