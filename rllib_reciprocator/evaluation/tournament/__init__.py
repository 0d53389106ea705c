"""Tournaments in which every entrant plays with every other entrant."""

from rllib_reciprocator.evaluation.tournament.entrants import Entrant, enter
from rllib_reciprocator.evaluation.tournament.games import Tournament, hold
from rllib_reciprocator.evaluation.tournament.output import draw, table, write
from rllib_reciprocator.evaluation.tournament.scores import metrics_of, ranking, standings
from rllib_reciprocator.evaluation.tournament.settings import tournament

__all__ = [
    "Entrant",
    "Tournament",
    "draw",
    "enter",
    "hold",
    "metrics_of",
    "ranking",
    "standings",
    "table",
    "tournament",
    "write",
]
