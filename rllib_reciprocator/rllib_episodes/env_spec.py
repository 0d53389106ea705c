"""Spec of a config's environment: its agents, their spaces and further properties."""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.wrappers.pettingzoo_env import PettingZooEnv
from ray.rllib.utils.typing import AgentID

from rllib_reciprocator.rllib_episodes.env_wrappers import FlatGame
from rllib_reciprocator.rllib_episodes.joint_steps import JointSpaces
from rllib_reciprocator.utils.ray_internals import env_creator


@dataclass(frozen=True)
class EnvSpec:
    """Properties of an environment from which players and reciprocity are set up.

    Attributes:
        joint: The agents and their spaces.
        horizon: Length of an episode in environment steps; None if it is not fixed.
        action_names: Names of the actions; empty if the environment does not define them.
        has_payoffs: True if rewards are known to depend on the joint action only.
        takes_turns: True if one agent is known to act at a time.
        has_outcomes: True if infos contain the outcomes of each step, as in games of this package.
    """

    joint: JointSpaces
    horizon: int | None
    action_names: tuple[str, ...]
    has_payoffs: bool
    takes_turns: bool = False
    has_outcomes: bool = False


def env_spec(config: AlgorithmConfig) -> EnvSpec:
    """Builds the environment of a config, reads its spec and closes it.

    Raises:
        ValueError: If the environment has fewer than two possible agents, or a space is missing or cannot be encoded.
    """
    env = make_env(config)
    try:
        agents = list(env.possible_agents)
        if len(agents) < 2:
            raise ValueError(f"env: {config.env} has {len(agents)} possible_agents; reciprocity needs at least two")
        joint = JointSpaces(
            {agent: _space(env.get_observation_space(agent), agent) for agent in agents},
            {agent: _space(env.get_action_space(agent), agent) for agent in agents},
        )
        joint.state, joint.action  # noqa: B018 -- raises ValueError if a space cannot be encoded
    finally:
        env.close()
    names, has_payoffs = tuple(getattr(env, "action_names", ())), bool(getattr(env, "has_payoffs", False))
    # RLlib's PettingZooEnv wraps AEC environments and has no attribute takes_turns.
    takes_turns = isinstance(env, PettingZooEnv) or bool(getattr(env, "takes_turns", False))
    has_outcomes = isinstance(env, FlatGame)
    return EnvSpec(joint, getattr(env, "horizon", None), names, has_payoffs, takes_turns, has_outcomes)


def make_env(config: AlgorithmConfig) -> MultiAgentEnv:
    """Builds one environment of a config.

    Raises:
        ValueError: If the environment is not registered or is not a multi-agent environment.
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


def _space(space: gymnasium.Space | None, agent: AgentID) -> gymnasium.Space:
    if space is None:
        raise ValueError(f"env: no space for {agent}; define its observation and action space")
    return space


# Name of the class in checkpoints of version 0.1.0.
KnownEnvironment = EnvSpec
