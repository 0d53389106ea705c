"""Who plays: the players mapping, and scripted players."""

from rllib_reciprocator.players.axelrod_strategies import AxelrodModule
from rllib_reciprocator.players.players import (
    AXELROD,
    CHECKPOINT,
    INCENTIVES,
    LEARNER,
    POOL,
    RECIPROCATOR,
    RECIPROCITY,
    SCRIPTED,
    Player,
    assign,
    keys_by_agent,
    module_class,
)
from rllib_reciprocator.players.scripted import STRATEGIES, ScriptedModule

__all__ = [
    "AXELROD",
    "CHECKPOINT",
    "INCENTIVES",
    "LEARNER",
    "POOL",
    "RECIPROCATOR",
    "RECIPROCITY",
    "SCRIPTED",
    "STRATEGIES",
    "AxelrodModule",
    "Player",
    "ScriptedModule",
    "assign",
    "keys_by_agent",
    "module_class",
]
