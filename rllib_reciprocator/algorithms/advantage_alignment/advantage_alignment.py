"""The Advantage Alignment algorithm."""

from __future__ import annotations

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from rllib_reciprocator.algorithms.advantage_alignment.config import AdvantageAlignmentConfig
from rllib_reciprocator.engine.algorithm import BatchedAlgorithm


class AdvantageAlignment(BatchedAlgorithm):
    """PPO agents whose advantages grow with the others', as far as these were good to them."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> AdvantageAlignmentConfig:
        """The default configuration."""
        return AdvantageAlignmentConfig(algo_class=cls)
