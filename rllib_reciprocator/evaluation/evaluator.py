"""Evaluators: the players of a checkpoint play without learning, in batched games or in RLlib's episodes."""

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
from rllib_reciprocator.evaluation.film import Film


class Evaluator(Protocol):
    """Players who no longer learn. All that is drawn at random follows from the seed."""

    def evaluate(self, episodes: int) -> dict[str, Any]:
        """Plays episodes.

        Returns:
            Who played, and per player the extrinsic return and each outcome as ``{mean, ci95}`` over episodes:
            the half-width of the 95% confidence interval.
        """

    def trace(self, episodes: int) -> pd.DataFrame:
        """Plays episodes; a row a step (:func:`rllib_reciprocator.evaluation.trace.step_rows`)."""

    def films(self, episodes: int = 1) -> list[Film]:
        """Plays episodes and draws every step.

        Args:
            episodes: How many.

        Raises:
            UserError: If the environment draws nothing.
        """

    def policy(self) -> pd.DataFrame | None:
        """P(cooperate | last joint action) of each player (:func:`cooperation_by_last_actions`).

        None where a game is not a matrix game for two.
        """

    def policy_in_context(self, episodes: int = 2000) -> pd.DataFrame | None:
        """How often players cooperated after each last joint action, by inner episode (:func:`cooperation_in_context`).

        None where a game is not a matrix game for two, or nobody learns between inner episodes.
        """


def open_evaluator(
    checkpoint: str | Path, players: Mapping[str, str] | None = None, *, seed: int | None = None, explore: bool = True
) -> Evaluator:
    """Lets a checkpoint's players play, or others in the place of some.

    Args:
        checkpoint: An Algorithm checkpoint, ours or RLlib's, or the folder of a run with one trial for its last.
        players: Who plays an agent instead of its player in training: ``scripted/STRATEGY``, ``checkpoint/PATH`` or
            ``axelrod/STRATEGY``.
        seed: Seeds the games and the players; one is drawn if None, so that what is evaluated is what is traced.
        explore: Whether players draw their actions; if not, they take the likeliest.

    Raises:
        UserError: If the checkpoint or a player is not one.
    """
    seed = secrets.randbits(31) if seed is None else seed
    folder = find(checkpoint)
    config = read_config(folder)
    kind = BatchedEvaluator if isinstance(config, BatchedConfig) else EpisodeEvaluator
    return kind(folder, config, dict(players or {}), seed, explore)
