"""Who plays: the players mapping, and scripted players."""

from rllib_reciprocator.players.axelrod_strategies import AxelrodModule
from rllib_reciprocator.players.frozen import MODULE_PATH, find_checkpoint
from rllib_reciprocator.players.players import (
    AXELROD,
    CHECKPOINT,
    LEARNER,
    RECIPROCATOR,
    SCRIPTED,
    Player,
    assign,
)
from rllib_reciprocator.players.scripted import STRATEGIES, ScriptedModule

__all__ = [
    "AXELROD",
    "CHECKPOINT",
    "LEARNER",
    "MODULE_PATH",
    "RECIPROCATOR",
    "SCRIPTED",
    "STRATEGIES",
    "AxelrodModule",
    "Player",
    "ScriptedModule",
    "assign",
    "find_checkpoint",
]
