"""Checks of the modules of an RLlib algorithm before actors are started."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from rllib_reciprocator.intrinsic.reciprocity.estimators import MixedRewardModelInfluence
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID
from rllib_reciprocator.rllib_episodes.composition import EpisodeSetup
from rllib_reciprocator.rllib_episodes.env_spec import EnvSpec, env_spec
from rllib_reciprocator.rllib_episodes.influence import EpisodeReciprocity
from rllib_reciprocator.rllib_episodes.influence_distributions import check_distributions
from rllib_reciprocator.rllib_episodes.observations import seen_space
from rllib_reciprocator.rllib_episodes.observed_balance import space_with_balance


def check_memory_of_turns(config: AlgorithmConfig, setup: EpisodeSetup) -> None:
    """Checks that episodes are not truncated where agents take turns and a module is stateful.

    RLlib does not find the recurrent state of an agent that did not act in the last step before a truncation (Ray
    2.60).

    Args:
        config: The composed config.
        setup: The setup that it was composed from.

    Raises:
        ValueError: If episodes are truncated, agents take turns and a module is stateful.
    """
    environment = setup.environment(config)
    if not environment.takes_turns or config.batch_mode == "complete_episodes" or config.in_evaluation:
        return
    spaces = module_spaces(config, environment)
    specs = config.get_multi_rl_module_spec(spaces=spaces).rl_module_specs
    for module_id, (observation_space, action_space) in spaces.items():
        specs[module_id].observation_space, specs[module_id].action_space = observation_space, action_space
        # The module is built for this check only and must not change the random numbers of the run.
        with torch.random.fork_rng(devices=[]):
            module = specs[module_id].build()
        if module.is_stateful():
            raise ValueError(
                f"batch_mode: agents of {config.env} take turns and {module_id} is stateful; set batch_mode to"
                " complete_episodes"
            )


def module_spaces(config: AlgorithmConfig, environment: EnvSpec) -> dict[str, tuple[Any, Any]]:
    """Returns the observation space and the action space of each module, by module id.

    Observation spaces include the influence balance where the agent observes it.
    """
    joint = environment.joint
    reciprocity: EpisodeReciprocity | None = getattr(config, "episode_reciprocity", None)
    observers = reciprocity.observers if reciprocity else ()
    spaces = {}
    for agent in joint.agents:
        observation_space = seen_space(config, joint, agent)
        if agent in observers:
            observation_space = space_with_balance(joint.observations[agent], len(joint.agents) - 1)
        spaces[config.policy_mapping_fn(agent, MultiAgentEpisode())] = (observation_space, joint.actions[agent])
    return spaces


def check_modules(config: AlgorithmConfig) -> None:
    """Builds the module of every player once, so that errors show before actors are started.

    Raises:
        ValueError: If a module cannot be built; the message contains RLlib's error and the module id.
    """
    spaces = module_spaces(config, env_spec(config))
    specs = config.get_multi_rl_module_spec(spaces=spaces).rl_module_specs
    modules = {}
    for module_id, (observation_space, action_space) in spaces.items():
        specs[module_id].observation_space, specs[module_id].action_space = observation_space, action_space
        try:
            modules[module_id] = specs[module_id].build()
        except Exception as error:  # modules of users may raise anything
            raise ValueError(f"players: the module of {module_id} cannot be built: {error}") from None
    estimator = specs.get(INFLUENCE_MODULE_ID)
    if estimator and MixedRewardModelInfluence.needs_behavior(estimator.model_config):
        check_distributions(modules)
