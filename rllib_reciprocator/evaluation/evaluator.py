"""Evaluators that play episodes with the policies of a checkpoint, in batched games or in RLlib's episodes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from rllib_reciprocator.engine import BatchedConfig
from rllib_reciprocator.evaluation.batched_evaluator import BatchedEvaluator
from rllib_reciprocator.evaluation.checkpoints import find, read_config
from rllib_reciprocator.evaluation.episode_evaluator import EpisodeEvaluator
from rllib_reciprocator.evaluation.video import Video


class Evaluator(Protocol):
    """Interface of evaluators. Policies are not trained, and the seed determines all random numbers."""

    def evaluate(self, episodes: int) -> dict[str, Any]:
        """Plays episodes and computes metrics.

        Args:
            episodes: Number of episodes.

        Returns:
            The checkpoint, the environment and its settings, the number of episodes, and for every agent the player,
            the extrinsic return and the outcomes. Metrics are ``{mean, ci95}`` over episodes, where ``ci95`` is the
            half-width of the 95% confidence interval.
        """

    def trace(self, episodes: int) -> pd.DataFrame:
        """Plays episodes and returns one row per step (:func:`rllib_reciprocator.evaluation.trace.step_rows`)."""

    def videos(self, episodes: int = 1) -> list[Video]:
        """Plays episodes and renders every step.

        Args:
            episodes: Number of episodes.

        Returns:
            One video per episode.

        Raises:
            UserError: If the environment cannot be rendered.
        """

    def policy(self) -> pd.DataFrame | None:
        """Returns P(cooperate | last joint action) of all players (:func:`cooperation_by_last_actions`).

        Returns None if the environment is not a matrix game for two players.
        """

    def policy_in_context(self, episodes: int = 2000) -> pd.DataFrame | None:
        """Returns cooperation rates by last joint action and inner episode (:func:`cooperation_in_context`).

        Returns None if the environment is not a matrix game for two players, or if there are no meta-episodes.

        Args:
            episodes: Number of inner episodes to play.
        """


def open_evaluator(
    checkpoint: str | Path, players: Mapping[str, str] | None = None, *, seed: int | None = None, explore: bool = True
) -> Evaluator:
    """Builds an evaluator for the players of a checkpoint.

    Args:
        checkpoint: Path of an Algorithm checkpoint of this package or of RLlib, or folder of a run with one trial. The
            last checkpoint of a run is used.
        players: Players that replace those of the checkpoint, by agent: ``scripted/STRATEGY``, ``checkpoint/PATH`` or
            ``axelrod/STRATEGY``.
        seed: Seed of environments and players. If None, a random seed is chosen once, so that
            :meth:`Evaluator.evaluate` and :meth:`Evaluator.trace` play the same episodes.
        explore: If True, actions are sampled; if False, the most probable ones are taken.

    Returns:
        The evaluator.

    Raises:
        UserError: If the checkpoint cannot be read or a player is not valid.
    """
    seed = secrets.randbits(31) if seed is None else seed
    folder = find(checkpoint)
    config = read_config(folder)
    evaluator_class = BatchedEvaluator if isinstance(config, BatchedConfig) else EpisodeEvaluator
    return evaluator_class(folder, config, dict(players or {}), seed, explore)
