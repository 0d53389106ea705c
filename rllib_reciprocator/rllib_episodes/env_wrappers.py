"""RLlib wrappers of PettingZoo environments, games of this package and Melting Pot."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from ray.rllib.env.multi_agent_env import MultiAgentEnv

if TYPE_CHECKING:
    from pettingzoo.utils.env import AECEnv, ParallelEnv


class PettingZooMultiAgentEnv(MultiAgentEnv):
    """RLlib wrapper of a PettingZoo ``ParallelEnv``.

    Differs from RLlib's ``ParallelPettingZooEnv``: agents keep their order, agents that are absent at the first step
    are included, and an episode ends when no agent is left.

    Attributes:
        horizon: Length of an episode in environment steps; None if it is not fixed or the environment does not
            define it.
        action_names: Names of the actions; empty if the environment does not define them.
        has_payoffs: True if rewards are known to depend on the joint action only.
        summarize: Function that converts outcomes summed over steps to rates; None if the environment is not a game of
            this package.
        takes_turns: If True, one agent acts at a time.
        episode_outcomes: Names of the rates that are defined for whole episodes only.
    """

    takes_turns = False

    def __init__(self, env: AECEnv | ParallelEnv) -> None:
        """Wraps a PettingZoo environment."""
        super().__init__()
        self.env = env
        self.possible_agents = list(env.possible_agents)
        self.agents = self.possible_agents
        self.observation_spaces = {agent: env.observation_space(agent) for agent in self.possible_agents}
        self.action_spaces = {agent: env.action_space(agent) for agent in self.possible_agents}
        self.observation_space = gymnasium.spaces.Dict(self.observation_spaces)
        self.action_space = gymnasium.spaces.Dict(self.action_spaces)
        self.horizon: int | None = getattr(env, "horizon", None)
        self.action_names: tuple[str, ...] = tuple(getattr(env, "action_names", ()))
        self.has_payoffs = getattr(env, "payoffs", None) is not None
        self.summarize = getattr(env, "summarize", None)
        self.episode_outcomes: frozenset[str] = getattr(env, "episode_outcomes", frozenset())

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode and returns observations and infos by agent."""
        return self.env.reset(seed=seed, options=options)

    def step(self, action_dict: dict) -> tuple[dict, dict, dict, dict, dict]:
        """Takes one environment step with the agents' actions."""
        obs, rewards, terminated, truncated, infos = self.env.step(action_dict)
        is_done = not self.env.agents
        is_terminated = is_done and all(terminated.values())
        return (
            obs,
            rewards,
            {**terminated, "__all__": is_terminated},
            {**truncated, "__all__": is_done and not is_terminated},
            infos,
        )

    def render(self) -> Any:
        """Renders the environment and returns the result."""
        return self.env.render()

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()


class TurnsMultiAgentEnv(PettingZooMultiAgentEnv):
    """RLlib wrapper of a PettingZoo ``AECEnv``, in which agents take turns.

    Only the agent to move receives an observation. Each agent receives its reward at the step in which it is given. At
    the end of an episode all agents receive their last observation.
    """

    takes_turns = True

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode and returns observation and info of the agent that moves first."""
        self.env.reset(seed=seed, options=options)
        mover = self.env.agent_selection
        return {mover: self.env.observe(mover)}, {mover: self.env.infos[mover]}

    def step(self, action_dict: dict) -> tuple[dict, dict, dict, dict, dict]:
        """Takes one environment step with the action of the agent to move."""
        env = self.env
        env.step(action_dict[env.agent_selection])
        rewards = {agent: float(env.rewards[agent]) for agent in env.agents}
        terminated = {agent: bool(env.terminations[agent]) for agent in env.agents}
        truncated = {agent: bool(env.truncations[agent]) for agent in env.agents}
        observers = [agent for agent in env.agents if terminated[agent] or truncated[agent]]
        # PettingZoo expects one step with the action None from each agent that is done.
        while env.agents and (env.terminations[env.agent_selection] or env.truncations[env.agent_selection]):
            env.step(None)
        observers += [env.agent_selection] if env.agents else []
        is_done = not env.agents
        is_terminated = is_done and all(terminated.values())
        return (
            {agent: env.observe(agent) for agent in observers},
            rewards,
            {**terminated, "__all__": is_terminated},
            {**truncated, "__all__": is_done and not is_terminated},
            {},
        )


class FlatGame(PettingZooMultiAgentEnv):
    """RLlib wrapper of a game of this package that flattens float observations.

    Observations are flattened because RLlib has no default networks for grids of a few cells. Class maps are not
    flattened; :mod:`rllib_reciprocator.rllib_episodes.scaled_bytes` converts them to one-hot planes.
    """

    def __init__(self, env: AECEnv | ParallelEnv) -> None:
        """Wraps a game of this package."""
        super().__init__(env)
        spaces = self.observation_spaces
        self._flattens = all(space.dtype == np.float32 for space in spaces.values())
        if self._flattens:
            self.observation_spaces = {agent: gymnasium.spaces.flatten_space(space) for agent, space in spaces.items()}
            self.observation_space = gymnasium.spaces.Dict(self.observation_spaces)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode and returns observations and infos by agent."""
        obs, infos = super().reset(seed=seed, options=options)
        return self._flatten(obs), infos

    def step(self, action_dict: dict) -> tuple[dict, dict, dict, dict, dict]:
        """Takes one environment step with the agents' actions."""
        obs, *rest = super().step(action_dict)
        return self._flatten(obs), *rest  # type: ignore[return-value]

    def _flatten(self, obs: dict) -> dict:
        return {agent: agent_obs.ravel() for agent, agent_obs in obs.items()} if self._flattens else obs


class MeltingPotMultiAgentEnv(MultiAgentEnv):
    """RLlib wrapper of a Melting Pot substrate.

    Agents are ``player_0``, ``player_1``, .. The observation of an agent is its ``RGB`` image, ``[88, 88, 3]`` float32
    between 0 and 1. All other observations of the substrate are dropped, including ``WORLD.RGB``.
    """

    def __init__(
        self, name: str, roles: Sequence[str] | None = None, num_agents: int | None = None, max_steps: int = 1000
    ) -> None:
        """Builds the substrate.

        Args:
            name: Name of the substrate, e.g. ``clean_up``.
            roles: Role of each player. If None, the substrate's default roles.
            num_agents: Number of players, all in the substrate's first default role. Ignored if ``roles`` is given.
            max_steps: Number of steps after which an episode is truncated.
        """
        super().__init__()
        substrate = import_module("meltingpot.substrate")
        default_roles = substrate.get_config(name).default_player_roles
        self._roles = list(roles or ([default_roles[0]] * num_agents if num_agents else default_roles))
        self._substrate = substrate.build(name, roles=self._roles)
        self._max_steps, self._step = max_steps, 0
        self.possible_agents = [f"player_{index}" for index in range(len(self._roles))]
        self.agents = self.possible_agents
        shape = self._substrate.observation_spec()[0]["RGB"].shape
        image_space = gymnasium.spaces.Box(0.0, 1.0, shape, np.float32)
        action_space = gymnasium.spaces.Discrete(int(self._substrate.action_spec()[0].num_values))
        self.observation_spaces = dict.fromkeys(self.possible_agents, image_space)
        self.action_spaces = dict.fromkeys(self.possible_agents, action_space)
        self.observation_space = gymnasium.spaces.Dict(self.observation_spaces)
        self.action_space = gymnasium.spaces.Dict(self.action_spaces)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode and returns observations and infos by agent."""
        self._step = 0
        return self._images(self._substrate.reset()), {}

    def step(self, action_dict: dict) -> tuple[dict, dict, dict, dict, dict]:
        """Takes one environment step with the agents' actions."""
        self._step += 1
        timestep = self._substrate.step([int(action_dict[agent]) for agent in self.possible_agents])
        rewards = dict(zip(self.possible_agents, map(float, timestep.reward), strict=True))
        is_terminated = bool(timestep.last())
        truncated = {"__all__": not is_terminated and self._step >= self._max_steps}
        return self._images(timestep), rewards, {"__all__": is_terminated}, truncated, {}

    def close(self) -> None:
        """Closes the simulator."""
        self._substrate.close()

    def _images(self, timestep: Any) -> dict[str, np.ndarray]:
        return {
            agent: obs["RGB"].astype(np.float32) / 255.0
            for agent, obs in zip(self.possible_agents, timestep.observation, strict=True)
        }
