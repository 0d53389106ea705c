"""The engine: games sampled by the thousand as streams of steps, and learners of these streams.

It knows no algorithm and no intrinsic reward. An algorithm is a :class:`BatchedConfig`, a :class:`BatchedAlgorithm` and
a :class:`BatchedLearner`, each changed where it does otherwise.
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
