"""Samples episodes from RLlib's env runners without favoring short ones."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils import force_list


class _AllEndedError(Exception):
    """Ends a call of ``EnvRunner.sample``: all requested episodes have ended."""


class WholeEpisodes:
    """Collects the first episodes that start, each to its end.

    The episodes that end first in parallel environments are short ones: their mean length and their mean return are
    biased. Which episodes start first does not depend on how long they will take.
    """

    def __init__(self, config: AlgorithmConfig, count: int) -> None:
        """Adds callbacks to the configuration that an env runner is to be built with.

        Args:
            config: The configuration; its other callbacks are kept.
            count: Number of episodes.
        """
        self._count = count
        # Ids of the first episodes in the order in which they started, and the current episode of each environment.
        self._ids: dict[str, None] = {}
        self._current: dict[int, str] = {}
        self._ended: dict[str, Any] = {}
        # Index of the environment whose episode ended last of all.
        self._last_index: int | None = None

        # Env runners copy their configuration, and with a bound method its object, but not what a function refers to.
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
            **{name: [*force_list(getattr(config, f"callbacks_{name}")), added] for name, added in callbacks.items()}
        )

    def sample(self, runner: Any, explore: bool) -> list[Any]:
        """Samples the episodes.

        Args:
            runner: The env runner, a ``SingleAgentEnvRunner`` or a ``MultiAgentEnvRunner``.
            explore: If True, actions are sampled; if False, they are the most probable ones.

        Returns:
            Complete episodes, in the order in which they started.
        """
        with suppress(_AllEndedError):
            runner.sample(num_episodes=sys.maxsize, explore=explore)
        return [self._ended[key] for key in self._ids]

    def _on_episode_start(self, *, episode: Any, env_index: int, **kwargs: Any) -> None:
        """Registers an episode; the one before it is lost if its environment failed."""
        before = self._current.get(env_index, "")
        if before not in self._ended:
            self._ids.pop(before, None)
        self._current[env_index] = episode.id_
        if len(self._ids) < self._count:
            self._ids[episode.id_] = None

    def _on_episode_end(self, *, episode: Any, env_index: int, **kwargs: Any) -> None:
        """Keeps an episode if it is among the first."""
        if episode.id_ in self._ids and len(self._ended) < self._count:
            self._ended[episode.id_] = episode
            if len(self._ended) == self._count:
                self._last_index = env_index

    def _end_sampling(self, *, env_index: int, **kwargs: Any) -> None:
        """Ends sampling in the step after the last episode ended, when connectors have completed that episode."""
        if self._last_index is not None and env_index <= self._last_index:
            raise _AllEndedError
