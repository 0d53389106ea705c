"""Who plays: the players mapping, and scripted players."""

from rllib_reciprocator.players.players import CHECKPOINT, LEARNER, MODULE_PATH, RECIPROCATOR, SCRIPTED, Player, assign
from rllib_reciprocator.players.scripted import STRATEGIES, ScriptedModule

__all__ = [
    "CHECKPOINT",
    "LEARNER",
    "MODULE_PATH",
    "RECIPROCATOR",
    "SCRIPTED",
    "STRATEGIES",
    "Player",
    "ScriptedModule",
    "assign",
]
