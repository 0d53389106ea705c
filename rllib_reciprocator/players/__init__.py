"""Who plays: the players mapping, and scripted players."""

from rllib_reciprocator.players.players import CHECKPOINT, MODULE_PATH, PPO, RECIPROCATOR, SCRIPTED, Player, assign
from rllib_reciprocator.players.scripted import STRATEGIES, ScriptedModule

__all__ = [
    "CHECKPOINT",
    "MODULE_PATH",
    "PPO",
    "RECIPROCATOR",
    "SCRIPTED",
    "STRATEGIES",
    "Player",
    "ScriptedModule",
    "assign",
]
