"""Env-to-module connectors that convert observations of bytes for RLlib's default models.

Images are scaled to [0, 1]. Class maps are converted to one-hot planes, one per class, on the last axis.
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
from ray.rllib.utils.typing import EpisodeType

from rllib_reciprocator.models.class_encoder import classes_in
from rllib_reciprocator.rllib_episodes.encoding import is_class_map


def holds_bytes(space: gymnasium.Space | None) -> bool:
    """Returns True if the space is a uint8 box."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8


def scaled_space(space: gymnasium.Space) -> gymnasium.Space:
    """Returns the output space of :func:`scaled`; spaces without bytes are returned unchanged."""
    if not holds_bytes(space):
        return space
    return spaces.Box(0.0, 1.0, (*space.shape, classes_in(space)) if is_class_map(space) else space.shape, np.float32)


def scaled(space: gymnasium.Space, obs: np.ndarray) -> np.ndarray:
    """Scales bytes to [0, 1] and converts class maps to one-hot planes."""
    if is_class_map(space):
        return np.eye(classes_in(space), dtype=np.float32)[obs]
    return np.asarray(obs, np.float32) / 255.0


class ScaleBytes(SingleAgentObservationPreprocessor):
    """Env-to-module connector that converts bytes in single-agent environments."""

    def recompute_output_observation_space(
        self, input_observation_space: gymnasium.Space, input_action_space: gymnasium.Space
    ) -> gymnasium.Space:
        """Returns the converted observation space."""
        self.seen_space = input_observation_space
        return scaled_space(input_observation_space)

    def preprocess(self, observation: np.ndarray, episode: EpisodeType) -> np.ndarray:
        """Converts a new observation."""
        return scaled(self.seen_space, observation)


class ScaleBytesOfAgents(MultiAgentObservationPreprocessor):
    """Env-to-module connector that converts the bytes that some agents of a multi-agent environment observe."""

    def __init__(self, *args: object, agents: Collection[Any], **kwargs: object) -> None:
        """Initializes the connector.

        Args:
            *args: Positional arguments of the base class.
            agents: The agents that observe bytes.
            **kwargs: Keyword arguments of the base class.
        """
        self.agents = frozenset(agents)
        super().__init__(*args, **kwargs)

    def recompute_output_observation_space(
        self, input_observation_space: gymnasium.Space, input_action_space: gymnasium.Space
    ) -> gymnasium.Space:
        """Returns the observation spaces by agent, with those of bytes converted."""
        input_spaces: Any = input_observation_space
        self.seen_spaces = dict(input_spaces.spaces)
        return spaces.Dict(
            {
                agent: scaled_space(space) if agent in self.agents else space
                for agent, space in input_spaces.spaces.items()
            }
        )

    def preprocess(self, observations: dict[Any, Any], episode: MultiAgentEpisode) -> dict[Any, Any]:
        """Converts the new observations of the agents that observe bytes, and returns only these."""
        byte_obs = {agent: obs for agent, obs in observations.items() if agent in self.agents}
        for agent in byte_obs:
            episode.agent_episodes[agent].observation_space = self.observation_space[agent]
        return {agent: scaled(self.seen_spaces[agent], obs) for agent, obs in byte_obs.items()}
