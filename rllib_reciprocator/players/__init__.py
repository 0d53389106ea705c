"""Players: the ``players`` mapping, and the players that the algorithm does not train."""

from rllib_reciprocator.players.axelrod_strategies import AxelrodModule
from rllib_reciprocator.players.learning import LearningModule, LearningTracker
from rllib_reciprocator.players.learning_settings import KNOWN_LEARNERS, LearningSettings, described_learner
from rllib_reciprocator.players.players import (
    AXELROD,
    CHECKPOINT,
    INCENTIVES,
    LEARNER,
    LEARNING,
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
    "KNOWN_LEARNERS",
    "LEARNER",
    "LEARNING",
    "POOL",
    "RECIPROCATOR",
    "RECIPROCITY",
    "SCRIPTED",
    "STRATEGIES",
    "AxelrodModule",
    "LearningModule",
    "LearningSettings",
    "LearningTracker",
    "Player",
    "ScriptedModule",
    "assign",
    "described_learner",
    "keys_by_agent",
    "module_class",
]
