"""Sampling from thousands of games at once."""

from rllib_reciprocator.rollout.batched_env_runner import INFLUENCE_MODULE_ID, BatchedEnvRunner
from rllib_reciprocator.rollout.columnar_sample import BOOTSTRAP_PREFIX, JOINT, ColumnarSample, concatenate
from rllib_reciprocator.rollout.sample_metrics import OUTCOMES

__all__ = [
    "BOOTSTRAP_PREFIX",
    "INFLUENCE_MODULE_ID",
    "JOINT",
    "OUTCOMES",
    "BatchedEnvRunner",
    "ColumnarSample",
    "concatenate",
]
