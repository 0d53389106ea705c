"""Env-to-module connectors: what RLlib's models take becomes of bytes.

Images become numbers from 0 to 1, maps of classes one-hot planes, one a class, last in order as those of images.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from ray.rllib.connectors.env_to_module.observation_preprocessor import (
    MultiAgentObservationPreprocessor,
    SingleAgentObservationPreprocessor,
)
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from rllib_reciprocator.models.class_encoder import classes_in
from rllib_reciprocator.rllib_episodes.encoding import is_class_map


def holds_bytes(space: gymnasium.Space | None) -> bool:
    """Whether a space is a box of bytes."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8


def scaled_space(space: gymnasium.Space) -> gymnasium.Space:
    """The space of what becomes of a space's observations."""
    if not holds_bytes(space):
        return space
    return spaces.Box(0.0, 1.0, (*space.shape, classes_in(space)) if is_class_map(space) else space.shape, np.float32)


def scaled(space: gymnasium.Space, obs: np.ndarray) -> np.ndarray:
    """Bytes as shares of 255, classes as one-hot planes."""
    if is_class_map(space):
        return np.eye(classes_in(space), dtype=np.float32)[obs]
    return np.asarray(obs, np.float32) / 255.0


class ScaleBytes(SingleAgentObservationPreprocessor):
    """For an environment with one agent."""

    def recompute_output_observation_space(
        self, input_observation_space: gymnasium.Space, input_action_space: gymnasium.Space
    ) -> gymnasium.Space:
        """Numbers from 0 to 1."""
        self.seen_space = input_observation_space
        return scaled_space(input_observation_space)

    def preprocess(self, observation: np.ndarray, episode: Any) -> np.ndarray:
        """Called with each new observation."""
        return scaled(self.seen_space, observation)


class ScaleBytesOfAgents(MultiAgentObservationPreprocessor):
    """For agents of an environment who see bytes."""

    def __init__(self, *args: Any, agents: Collection[Any], **kwargs: Any) -> None:
        """Notes for whom.

        Args:
            *args: RLlib's.
            agents: The agents.
            **kwargs: RLlib's.
        """
        self.agents = frozenset(agents)
        super().__init__(*args, **kwargs)

    def recompute_output_observation_space(
        self, input_observation_space: gymnasium.Space, input_action_space: gymnasium.Space
    ) -> gymnasium.Space:
        """The agents' spaces, bytes as numbers from 0 to 1."""
        seen: Any = input_observation_space
        self.seen_spaces = dict(seen.spaces)
        return spaces.Dict(
            {agent: scaled_space(space) if agent in self.agents else space for agent, space in seen.spaces.items()}
        )

    def preprocess(self, observations: dict[Any, Any], episode: MultiAgentEpisode) -> dict[Any, Any]:
        """Called with the agents' new observations."""
        of_bytes = {agent: obs for agent, obs in observations.items() if agent in self.agents}
        for agent in of_bytes:
            episode.agent_episodes[agent].observation_space = self.observation_space[agent]
        return {agent: scaled(self.seen_spaces[agent], obs) for agent, obs in of_bytes.items()}
