"""Batched engine: env runners that step thousands of parallel environments, and learners that train on the rollouts.

The engine loops over intrinsic rewards, advantage steps and update rules, and knows none of them by name. An algorithm
is a :class:`BatchedConfig` with defaults and a :class:`BatchedAlgorithm`; what its players are is defined by rows of
:class:`PlayerKind` in :mod:`rllib_reciprocator.registry`.
"""

from rllib_reciprocator.engine.algorithm import BatchedAlgorithm
from rllib_reciprocator.engine.config import BatchedConfig
from rllib_reciprocator.engine.context import PlayerKind, RunContext
from rllib_reciprocator.engine.env_runner import BatchedEnvRunner
from rllib_reciprocator.engine.intrinsic_reward import IntrinsicReward
from rllib_reciprocator.engine.learner import BatchedLearner
from rllib_reciprocator.engine.player_mapping import Player, assign
from rllib_reciprocator.engine.rollout_batch import ModuleColumns, RolloutBatch
from rllib_reciprocator.engine.tracker import JointStep, StepTracker
from rllib_reciprocator.engine.update_rule import AdvantageStep, Stage, UpdateInfo, UpdateRule

__all__ = [
    "AdvantageStep",
    "BatchedAlgorithm",
    "BatchedConfig",
    "BatchedEnvRunner",
    "BatchedLearner",
    "IntrinsicReward",
    "JointStep",
    "ModuleColumns",
    "Player",
    "PlayerKind",
    "RolloutBatch",
    "RunContext",
    "Stage",
    "StepTracker",
    "UpdateInfo",
    "UpdateRule",
    "assign",
]
