"""What is known of a configuration's environment before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.wrappers.pettingzoo_env import PettingZooEnv

from rllib_reciprocator.rllib_episodes.environments import FlatGame
from rllib_reciprocator.rllib_episodes.joint_steps import JointSpaces
from rllib_reciprocator.utils.ray_internals import env_creator


@dataclass(frozen=True)
class EnvSpec:
    """An environment, as far as players need to know it.

    Attributes:
        joint: Its agents and their spaces.
        horizon: Steps of a whole episode, if that is fixed.
        action_names: What its actions are called, if it says.
        has_payoffs: Whether rewards are known to follow from the joint action alone.
        takes_turns: If True, one agent acts at a time, as far as is known.
        has_outcomes: If True, infos have the outcomes of each step, as those of games of this package.
    """

    joint: JointSpaces
    horizon: int | None
    action_names: tuple[str, ...]
    has_payoffs: bool
    takes_turns: bool = False
    has_outcomes: bool = False


def env_spec(config: AlgorithmConfig) -> EnvSpec:
    """Looks at one environment of a configuration.

    Raises:
        ValueError: If the environment does not say who may take part, or a space cannot be encoded.
    """
    env = make_env(config)
    try:
        agents = list(env.possible_agents)
        if len(agents) < 2:
            raise ValueError(f"env: {config.env} names {len(agents)} possible_agents; reciprocity needs two at least")
        joint = JointSpaces(
            {agent: _space(env.get_observation_space(agent), agent) for agent in agents},
            {agent: _space(env.get_action_space(agent), agent) for agent in agents},
        )
        joint.state, joint.action  # noqa: B018 -- raise what cannot be encoded
    finally:
        env.close()
    names, has_payoffs = tuple(getattr(env, "action_names", ())), bool(getattr(env, "has_payoffs", False))
    # RLlib's own wrapper, and those of this package (as any environment of a user's) that say so.
    takes_turns = isinstance(env, PettingZooEnv) or bool(getattr(env, "takes_turns", False))
    has_outcomes = isinstance(env, FlatGame)
    return EnvSpec(joint, getattr(env, "horizon", None), names, has_payoffs, takes_turns, has_outcomes)


def make_env(config: AlgorithmConfig) -> MultiAgentEnv:
    """One environment of a configuration.

    Raises:
        ValueError: If there is none, or it is not a multi-agent one.
    """
    context = EnvContext(config.env_config, worker_index=0)
    if creator := env_creator(config.env):
        env = creator(context)
    elif isinstance(config.env, type):
        env = config.env(context)
    else:
        raise ValueError(f"env: {config.env!r} is not a registered multi-agent environment")
    if not isinstance(env, MultiAgentEnv):
        raise ValueError(f"env: {config.env} is not a multi-agent environment")
    return env


def _space(space: gymnasium.Space | None, agent: Any) -> gymnasium.Space:
    if space is None:
        raise ValueError(f"env: does not say which space {agent} has")
    return space


# The name in checkpoints of version 0.1.0.
KnownEnvironment = EnvSpec
