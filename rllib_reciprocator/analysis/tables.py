"""Tables at which the players of a checkpoint play, without learning: on the batched road, and on RLlib's own."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from rllib_reciprocator.algorithms.reciprocator import ReciprocatorConfig
from rllib_reciprocator.analysis.animation import Film
from rllib_reciprocator.analysis.checkpoints import find, read_config
from rllib_reciprocator.analysis.game_table import GameTable
from rllib_reciprocator.analysis.stock_table import StockTable


class Table(Protocol):
    """Players in their seats. All that is drawn at random follows from the seed."""

    def evaluate(self, episodes: int) -> dict[str, Any]:
        """Plays episodes.

        Returns:
            Who played, and per player the extrinsic return and each outcome as ``{mean, ci95}`` over episodes:
            the half-width of the 95% confidence interval.
        """

    def trace(self, episodes: int) -> pd.DataFrame:
        """Plays episodes; a row a step (:func:`rllib_reciprocator.analysis.trace.step_rows`)."""

    def film(self) -> Film:
        """Plays one episode and draws every step.

        Raises:
            UserError: If the environment draws nothing.
        """

    def policy(self) -> pd.DataFrame | None:
        """P(cooperate | last joint action) of each player (:func:`cooperation_by_last_actions`).

        None where a game is not a matrix game for two.
        """


def open_table(
    checkpoint: str | Path, players: Mapping[str, str] | None = None, *, seed: int | None = None, explore: bool = True
) -> Table:
    """Seats a checkpoint's players, or others on some seats.

    Args:
        checkpoint: An Algorithm checkpoint, ours or RLlib's, or the folder of a run with one trial for its last.
        players: Who sits on a seat instead of its player in training: ``scripted/STRATEGY``, ``checkpoint/PATH`` or
            ``axelrod/STRATEGY``.
        seed: Seeds the games and the players; one is drawn if None, so that what is evaluated is what is traced.
        explore: Whether players draw their actions; if not, they take the likeliest.

    Raises:
        UserError: If the checkpoint or a player is not one.
    """
    seed = secrets.randbits(31) if seed is None else seed
    folder = find(checkpoint)
    config = read_config(folder)
    kind = GameTable if isinstance(config, ReciprocatorConfig) else StockTable
    return kind(folder, config, dict(players or {}), seed, explore)
