"""Unbiased sampling of complete episodes from RLlib's env runners."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils import force_list
from ray.rllib.utils.typing import EpisodeType


class _AllEndedError(Exception):
    """Exception that ends a call of ``EnvRunner.sample`` when all requested episodes have ended."""


class WholeEpisodes:
    """Sampler of the episodes that start first, rather than of those that end first.

    In parallel environments short episodes end first, so that means over the first completed episodes are biased. The
    order in which episodes start does not depend on their lengths.
    """

    def __init__(self, config: AlgorithmConfig, count: int) -> None:
        """Adds callbacks to the configuration of an env runner.

        Args:
            config: Configuration to build the env runner with. Existing callbacks are kept.
            count: Number of episodes to sample.
        """
        self._count = count
        # Ids of the first episodes in the order in which they started, and the current episode of every environment.
        self._ids: dict[str, None] = {}
        self._current: dict[int, str] = {}
        self._complete_episodes: dict[str, Any] = {}
        # Index of the environment in which the last episode ended.
        self._last_index: int | None = None

        # Functions instead of bound methods: env runners copy their configuration, and with a method its object.
        def on_episode_start(**kwargs: Any) -> None:
            self._end_sampling(**kwargs)
            self._on_episode_start(**kwargs)

        def on_episode_step(**kwargs: Any) -> None:
            self._end_sampling(**kwargs)

        def on_episode_end(**kwargs: Any) -> None:
            self._on_episode_end(**kwargs)

        callbacks = {
            "on_episode_start": on_episode_start,
            "on_episode_step": on_episode_step,
            "on_episode_end": on_episode_end,
        }
        config.callbacks(
            **{name: [*force_list(getattr(config, f"callbacks_{name}")), hook] for name, hook in callbacks.items()}
        )

    def sample(self, runner: EnvRunner, explore: bool) -> list[Any]:
        """Samples the episodes.

        Args:
            runner: The env runner, a ``SingleAgentEnvRunner`` or a ``MultiAgentEnvRunner``.
            explore: If True, actions are sampled; if False, the most probable ones are taken.

        Returns:
            Complete episodes, in the order in which they started.
        """
        with suppress(_AllEndedError):
            runner.sample(num_episodes=sys.maxsize, explore=explore)
        return [self._complete_episodes[key] for key in self._ids]

    def _on_episode_start(self, *, episode: EpisodeType, env_index: int, **kwargs: object) -> None:
        """Registers an episode. If the previous one did not end, because its environment failed, it is replaced."""
        previous_id = self._current.get(env_index, "")
        if previous_id not in self._complete_episodes:
            self._ids.pop(previous_id, None)
        self._current[env_index] = episode.id_
        if len(self._ids) < self._count:
            self._ids[episode.id_] = None

    def _on_episode_end(self, *, episode: EpisodeType, env_index: int, **kwargs: object) -> None:
        """Stores an episode if it is among the first ones."""
        if episode.id_ in self._ids and len(self._complete_episodes) < self._count:
            self._complete_episodes[episode.id_] = episode
            if len(self._complete_episodes) == self._count:
                self._last_index = env_index

    def _end_sampling(self, *, env_index: int, **kwargs: object) -> None:
        """Ends sampling one step after the end of the last episode, when connectors have processed that episode."""
        if self._last_index is not None and env_index <= self._last_index:
            raise _AllEndedError
