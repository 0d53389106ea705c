"""Batched engine: env runners that step thousands of parallel environments, and learners that train on the rollouts.

The engine is independent of algorithms and intrinsic rewards. An algorithm consists of subclasses of
:class:`BatchedConfig`, :class:`BatchedAlgorithm` and :class:`BatchedLearner`, which override the parts that differ.
"""

from rllib_reciprocator.engine.algorithm import BatchedAlgorithm
from rllib_reciprocator.engine.config import BatchedConfig
from rllib_reciprocator.engine.env_runner import BatchedEnvRunner
from rllib_reciprocator.engine.learner import BatchedLearner
from rllib_reciprocator.engine.sample import Sample
from rllib_reciprocator.engine.tracker import JointStep, StepTracker

__all__ = [
    "BatchedAlgorithm",
    "BatchedConfig",
    "BatchedEnvRunner",
    "BatchedLearner",
    "JointStep",
    "Sample",
    "StepTracker",
]
