"""Joint steps of RLlib's multi-agent episodes, the input of influence estimators."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.spaces.space_utils import batch as batched
from ray.rllib.utils.typing import AgentID
from torch import Tensor

from rllib_reciprocator.models.action_masks import ACTION_MASK, mask_start
from rllib_reciprocator.rllib_episodes.encoding import encode, encoded_size
from rllib_reciprocator.rllib_episodes.observed_balance import encode_without_balance


@dataclass(frozen=True)
class JointSpaces:
    """The agents of an environment and their spaces.

    Attributes:
        observations: Observation space of each agent, in the order of the agents.
        actions: Action space of each agent.
    """

    observations: dict[Any, gymnasium.Space]
    actions: dict[Any, gymnasium.Space]

    @cached_property
    def agents(self) -> tuple[Any, ...]:
        """Returns all possible agents, N of them."""
        return tuple(self.observations)

    @cached_property
    def state(self) -> spaces.Box:
        """Returns the space of joint states.

        A joint state contains the encoded observation of each agent, each followed by 1 if the agent is present and 0
        if not, and finally the remaining share of the episode's steps.
        """
        size = sum(encoded_size(space) + 1 for space in self.observations.values()) + 1
        return spaces.Box(-np.inf, np.inf, (size,), np.float32)

    @cached_property
    def action(self) -> spaces.Box:
        """Returns the space of encoded joint actions, ``[N, width]``, padded to the widest action."""
        width = max(map(encoded_size, self.actions.values()))
        return spaces.Box(-np.inf, np.inf, (len(self.actions), width), np.float32)

    @cached_property
    def num_options(self) -> tuple[int, ...]:
        """Returns the number of actions of each agent; 0 if its action space is not discrete."""
        return tuple(int(space.n) if isinstance(space, spaces.Discrete) else 0 for space in self.actions.values())

    def legal_actions(self, agent: AgentID, state: Tensor) -> Tensor:
        """Returns the mask of an agent's legal actions; all True if its observations contain no action mask.

        Args:
            agent: The agent; its action space is discrete.
            state: Joint states, ``[rows, state size]``.

        Returns:
            ``[rows, A]`` bool.
        """
        action_space = self.actions[agent]
        assert isinstance(action_space, spaces.Discrete)
        space, count = self.observations[agent], int(action_space.n)
        if mask_start(space, action_space) is None:
            return torch.ones(len(state), count, dtype=torch.bool)
        assert isinstance(space, spaces.Dict)
        names = list(space.spaces)
        parts = [space[name] for name in names[: names.index(ACTION_MASK)]]
        start = sum(encoded_size(part, inside=True) for part in parts)
        previous = [self.observations[name] for name in self.agents[: self.agents.index(agent)]]
        start += sum(encoded_size(previous_space) + 1 for previous_space in previous)
        legal = state[:, start : start + count] > 0.0
        # A row without any legal action belongs to a step at which the agent is not to move.
        return legal | ~legal.any(-1, keepdim=True)


@dataclass
class JointSteps:
    """T joint steps of one episode chunk.

    Attributes:
        state: Joint states, ``[T, state size]`` float32.
        actions: Encoded actions, ``[T, N, action width]`` float32; zero for absent agents.
        rewards: Rewards, ``[T, N]`` float32.
        present: True where an agent observed and acted, ``[T, N]`` bool.
        rows: For each agent, the indices of the joint steps at which its own steps began, ascending, ``[own steps]``
            int64. Own steps that began in an earlier chunk are left out.
    """

    state: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    present: np.ndarray
    rows: dict[Any, np.ndarray]


def joint_steps(
    episode: MultiAgentEpisode,
    joint: JointSpaces,
    observers: Collection[str] = (),
    horizon: int | None = None,
    artificial: int = 0,
) -> JointSteps:
    """Aligns the agents' own steps by environment step.

    Args:
        episode: An episode chunk, finished or truncated.
        joint: The agents and their spaces.
        observers: Agents whose observations contain their influence balance, which is removed.
        horizon: Length of an episode in environment steps; None if it is not fixed.
        artificial: Number of artificial steps that a connector appended to each agent's own episode.

    Returns:
        The joint steps.
    """
    length, n = len(episode), len(joint.agents)
    states: list[np.ndarray] = []
    actions = np.zeros((length, *joint.action.shape), np.float32)
    rewards = np.zeros((length, n), np.float32)
    present = np.zeros((length, n), bool)
    rows: dict[Any, np.ndarray] = {}
    for index, (agent, space) in enumerate(joint.observations.items()):
        agent_state = np.zeros((length, encoded_size(space) + 1), np.float32)
        states.append(agent_state)
        agent_episode = episode.agent_episodes.get(agent)
        if agent_episode is None or len(agent_episode) <= artificial:
            continue
        count = len(agent_episode) - artificial
        env_steps = rows[agent] = _env_steps(episode, agent, count)
        if not len(env_steps):
            continue
        indices = slice(count - len(env_steps), count)
        obs = _stack(agent_episode.get_observations(indices))
        agent_state[env_steps, :-1] = (
            encode_without_balance(space, obs, n - 1) if agent in observers else encode(space, obs)
        )
        agent_state[env_steps, -1] = 1.0
        encoded_actions = encode(joint.actions[agent], _stack(agent_episode.get_actions(indices)))
        actions[env_steps, index, : encoded_actions.shape[1]] = encoded_actions
        rewards[env_steps, index] = np.asarray(agent_episode.get_rewards(indices), np.float32)
        present[env_steps, index] = True
    time_left = np.zeros((length, 1), np.float32)
    if horizon:
        time_left[:, 0] = 1.0 - (episode.env_t_started + np.arange(length)) / horizon
    return JointSteps(np.concatenate([*states, time_left], 1), actions, rewards, present, rows)


def last_joint_step(
    episode: MultiAgentEpisode, joint: JointSpaces, observers: Collection[str] = (), horizon: int | None = None
) -> JointSteps:
    """Returns the last joint step of an ongoing episode, in the form of :func:`joint_steps` but without rewards.

    Args:
        episode: The episode, not yet converted to NumPy. It contains the observations after the step.
        joint: The agents and their spaces.
        observers: Agents whose observations contain their influence balance, which is removed.
        horizon: Length of an episode in environment steps; None if it is not fixed.
    """
    n = len(joint.agents)
    states: list[np.ndarray] = []
    actions = np.zeros((1, *joint.action.shape), np.float32)
    present = np.zeros((1, n), bool)
    rows: dict[Any, np.ndarray] = {}
    for index, (agent, space) in enumerate(joint.observations.items()):
        agent_state = np.zeros((1, encoded_size(space) + 1), np.float32)
        states.append(agent_state)
        agent_episode = episode.agent_episodes.get(agent)
        if agent_episode is None or not len(agent_episode.actions):
            continue
        # An own step is the last environment step only if the agent has observations before and after that step.
        agent_steps = episode.env_t_to_agent_t[agent].data[-2:]
        if len(agent_steps) < 2 or episode.SKIP_ENV_TS_TAG in agent_steps:
            continue
        obs = batched([agent_episode.get_observations(-2, neg_index_as_lookback=False)])
        agent_state[0, :-1] = (
            encode_without_balance(space, obs, n - 1)[0] if agent in observers else encode(space, obs)[0]
        )
        agent_state[0, -1] = 1.0
        encoded_action = encode(joint.actions[agent], batched([agent_episode.get_actions(-1)]))
        actions[0, index, : encoded_action.shape[1]] = encoded_action
        present[0, index] = True
        rows[agent] = np.zeros(1, np.int64)
    time_left = np.full((1, 1), 1.0 - (episode.env_t - 1) / horizon if horizon else 0.0, np.float32)
    return JointSteps(np.concatenate([*states, time_left], 1), actions, np.zeros((1, n), np.float32), present, rows)


def behavior_inputs(agent_episode: SingleAgentEpisode, indices: slice | list[int]) -> np.ndarray | None:
    """Returns the inputs of the behavior policy's action distribution, ``[steps, inputs]``; None if not recorded."""
    if Columns.ACTION_DIST_INPUTS not in agent_episode.extra_model_outputs:
        return None
    return np.asarray(agent_episode.get_extra_model_outputs(Columns.ACTION_DIST_INPUTS, indices), np.float32)


def _env_steps(episode: MultiAgentEpisode, agent: AgentID, count: int) -> np.ndarray:
    """Returns the environment steps, from the start of this chunk, at which the agent's last ``count`` steps began.

    Where agents take turns, the first of these steps may have begun in the previous chunk. That step is left out.

    RLlib's ``env_t_to_agent_t`` starts with the lookback, and ends early for an agent that was done before the end of
    a slice. If an agent enters in a later chunk, the start of the mapping is misaligned, but its end is the last step.
    """
    mapping, steps = episode.env_t_to_agent_t[agent], len(episode) + 1
    indices = np.flatnonzero([step != episode.SKIP_ENV_TS_TAG for step in mapping.data])
    env_steps = indices - mapping.lookback
    length = len(mapping.data) - mapping.lookback
    done_before = episode.agent_episodes[agent].is_done and (env_steps >= 0).sum() == count + 1
    if length > steps or (length < steps and not done_before):
        env_steps = indices + steps - len(mapping.data)
    start_steps = env_steps[-count - 1 : -1]
    return start_steps[start_steps >= 0]


def _stack(values: object) -> Any:
    return batched(values) if isinstance(values, list) else values


def check_rewards(episode: MultiAgentEpisode, steps: JointSteps, joint: JointSpaces) -> None:
    """Raises ValueError if a reward is not finite; the message names the agent and the step."""
    non_finite = np.argwhere(~np.isfinite(steps.rewards))
    if len(non_finite):
        t, index = non_finite[0]
        raise ValueError(
            f"the environment gave {joint.agents[index]} a reward of {steps.rewards[t, index]}"
            f" at step {episode.env_t_started + int(t)} of its episode"
        )
