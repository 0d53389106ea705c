"""The joint steps of RLlib's multi-agent episodes, as an influence estimator takes them."""

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
from torch import Tensor

from rllib_reciprocator.models.action_masks import ACTION_MASK, mask_start
from rllib_reciprocator.rllib_episodes.encoding import encode, encoded_size
from rllib_reciprocator.rllib_episodes.observed_balance import encode_without_balance


@dataclass(frozen=True)
class JointSpaces:
    """The agents of an environment and their spaces.

    Attributes:
        observations: Space of each agent's observations, in the order of the agents.
        actions: Space of each agent's actions.
    """

    observations: dict[Any, gymnasium.Space]
    actions: dict[Any, gymnasium.Space]

    @cached_property
    def agents(self) -> tuple[Any, ...]:
        """Everybody who may ever take part."""
        return tuple(self.observations)

    @cached_property
    def state(self) -> spaces.Box:
        """Everybody's encoded observation, each with whether it is there, and the share of steps that are to come."""
        size = sum(encoded_size(space) + 1 for space in self.observations.values()) + 1
        return spaces.Box(-np.inf, np.inf, (size,), np.float32)

    @cached_property
    def action(self) -> spaces.Box:
        """Encoded actions, ``[N, width]``, padded to the widest."""
        width = max(map(encoded_size, self.actions.values()))
        return spaces.Box(-np.inf, np.inf, (len(self.actions), width), np.float32)

    @cached_property
    def num_options(self) -> tuple[int, ...]:
        """How many actions each agent has to choose from; 0 where they cannot be counted."""
        return tuple(int(s.n) if isinstance(s, spaces.Discrete) else 0 for s in self.actions.values())

    def legal_actions(self, agent: Any, state: Tensor) -> Tensor:
        """Returns which of an agent's discrete actions its observations allow; all where they hold no action mask.

        Args:
            agent: The agent.
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
        # Rows that allow nothing are of agents that are not to move.
        return legal | ~legal.any(-1, keepdim=True)


@dataclass
class JointSteps:
    """T joint steps of one chunk of an episode.

    Attributes:
        state: ``[T, state size]`` float32.
        actions: ``[T, N, action width]`` float32, zero for who is not there.
        rewards: ``[T, N]`` float32.
        present: ``[T, N]`` bool, who saw something and acted.
        rows: For each agent, the joint step of each of its own steps that began in this chunk, the last of them last,
            ``[its steps]`` int64.
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
    """Puts the agents' own steps side by side by the step of the environment.

    Args:
        episode: A finished or a cut chunk.
        joint: Who may take part.
        observers: Whose observations have their balances in them.
        horizon: Steps of a whole episode, if that is fixed.
        artificial: Steps at the end of each agent's own episode that did not happen.

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
        seen = np.zeros((length, encoded_size(space) + 1), np.float32)
        states.append(seen)
        own = episode.agent_episodes.get(agent)
        if own is None or len(own) <= artificial:
            continue
        count = len(own) - artificial
        at = rows[agent] = _env_steps(episode, agent, count)
        if not len(at):
            continue
        here = slice(count - len(at), count)
        obs = _stacked(own.get_observations(here))
        seen[at, :-1] = encode_without_balance(space, obs, n - 1) if agent in observers else encode(space, obs)
        seen[at, -1] = 1.0
        taken = encode(joint.actions[agent], _stacked(own.get_actions(here)))
        actions[at, index, : taken.shape[1]] = taken
        rewards[at, index] = np.asarray(own.get_rewards(here), np.float32)
        present[at, index] = True
    left = np.zeros((length, 1), np.float32)
    if horizon:
        left[:, 0] = 1.0 - (episode.env_t_started + np.arange(length)) / horizon
    return JointSteps(np.concatenate([*states, left], 1), actions, rewards, present, rows)


def last_joint_step(
    episode: MultiAgentEpisode, joint: JointSpaces, observers: Collection[str] = (), horizon: int | None = None
) -> JointSteps:
    """The newest joint step of an episode that is being played, as :func:`joint_steps` gives it.

    Args:
        episode: The episode, with the observations after the step in it, not turned to arrays yet.
        joint: Who may take part.
        observers: Whose observations have their balances in them.
        horizon: Steps of a whole episode, if that is fixed.
    """
    n = len(joint.agents)
    states: list[np.ndarray] = []
    actions = np.zeros((1, *joint.action.shape), np.float32)
    present = np.zeros((1, n), bool)
    rows: dict[Any, np.ndarray] = {}
    for index, (agent, space) in enumerate(joint.observations.items()):
        seen = np.zeros((1, encoded_size(space) + 1), np.float32)
        states.append(seen)
        own = episode.agent_episodes.get(agent)
        if own is None or not len(own.actions):
            continue
        here = episode.env_t_to_agent_t[agent].data[-2:]
        if len(here) < 2 or episode.SKIP_ENV_TS_TAG in here:
            continue
        obs = batched([own.get_observations(-2, neg_index_as_lookback=False)])
        seen[0, :-1] = encode_without_balance(space, obs, n - 1)[0] if agent in observers else encode(space, obs)[0]
        seen[0, -1] = 1.0
        taken = encode(joint.actions[agent], batched([own.get_actions(-1)]))
        actions[0, index, : taken.shape[1]] = taken
        present[0, index] = True
        rows[agent] = np.zeros(1, np.int64)
    left = np.full((1, 1), 1.0 - (episode.env_t - 1) / horizon if horizon else 0.0, np.float32)
    return JointSteps(np.concatenate([*states, left], 1), actions, np.zeros((1, n), np.float32), present, rows)


def behavior_inputs(own: SingleAgentEpisode, indices: slice | list[int]) -> np.ndarray | None:
    """What the agent's policy put into its action distribution, ``[steps, inputs]``; None if it does not say."""
    if Columns.ACTION_DIST_INPUTS not in own.extra_model_outputs:
        return None
    return np.asarray(own.get_extra_model_outputs(Columns.ACTION_DIST_INPUTS, indices), np.float32)


def _env_steps(episode: MultiAgentEpisode, agent: Any, count: int) -> np.ndarray:
    """The step of the environment, from the start of this chunk, of the last of the agent's ``count`` own steps.

    Where agents take turns, its first own step may have begun in the chunk before; that one is left out.

    RLlib's notes of an agent's observations begin with the look-back, and end early for one that was done before the
    end of a slice. Where an agent enters in a later chunk their beginning is wrong, but they end with the last step.
    """
    mapping, steps = episode.env_t_to_agent_t[agent], len(episode) + 1
    seen = np.flatnonzero([step != episode.SKIP_ENV_TS_TAG for step in mapping.data])
    at = seen - mapping.lookback
    length = len(mapping.data) - mapping.lookback
    done_before = episode.agent_episodes[agent].is_done and (at >= 0).sum() == count + 1
    if length > steps or (length < steps and not done_before):
        at = seen + steps - len(mapping.data)
    own = at[-count - 1 : -1]
    return own[own >= 0]


def _stacked(values: Any) -> Any:
    return batched(values) if isinstance(values, list) else values


def check_rewards(episode: MultiAgentEpisode, steps: JointSteps, joint: JointSpaces) -> None:
    """Raises ValueError if a reward is not finite; the message names agent and step."""
    wrong = np.argwhere(~np.isfinite(steps.rewards))
    if len(wrong):
        t, index = wrong[0]
        raise ValueError(
            f"the environment gave {joint.agents[index]} a reward of {steps.rewards[t, index]}"
            f" at step {episode.env_t_started + int(t)} of its episode"
        )
