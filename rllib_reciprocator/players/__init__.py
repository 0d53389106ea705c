"""Players that the algorithm does not train: scripted strategies, frozen policies and online learners."""

from rllib_reciprocator.engine.online_learner_settings import KNOWN_LEARNERS, LearningSettings, described_learner
from rllib_reciprocator.players.axelrod_strategies import AXELROD, AxelrodModule
from rllib_reciprocator.players.frozen import CHECKPOINT
from rllib_reciprocator.players.learning import LEARNER_PREFIX, LEARNING, LearningModule, LearningTracker
from rllib_reciprocator.players.scripted import SCRIPTED, STRATEGIES, ScriptedModule

__all__ = [
    "AXELROD",
    "CHECKPOINT",
    "KNOWN_LEARNERS",
    "LEARNER_PREFIX",
    "LEARNING",
    "SCRIPTED",
    "STRATEGIES",
    "AxelrodModule",
    "LearningModule",
    "LearningSettings",
    "LearningTracker",
    "ScriptedModule",
    "described_learner",
]
