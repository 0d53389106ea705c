"""The engine: games sampled by the thousand as streams of steps, and learners of these streams.

It knows no algorithm and no intrinsic reward. An algorithm is a :class:`BatchedConfig`, a :class:`BatchedAlgorithm` and
a :class:`BatchedLearner`, each changed where it does otherwise.
"""

from rllib_reciprocator.batched.algorithm import BatchedAlgorithm
from rllib_reciprocator.batched.config import BatchedConfig
from rllib_reciprocator.batched.env_runner import BatchedEnvRunner
from rllib_reciprocator.batched.learner import BatchedLearner
from rllib_reciprocator.batched.sample import Sample
from rllib_reciprocator.batched.tracker import JointStep, StepTracker

__all__ = [
    "BatchedAlgorithm",
    "BatchedConfig",
    "BatchedEnvRunner",
    "BatchedLearner",
    "JointStep",
    "Sample",
    "StepTracker",
]
