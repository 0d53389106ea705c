"""The Advantage Alignment algorithm."""

from __future__ import annotations

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from rllib_reciprocator.algorithms.advantage_alignment.config import AdvantageAlignmentConfig
from rllib_reciprocator.engine.algorithm import BatchedAlgorithm


class AdvantageAlignment(BatchedAlgorithm):
    """PPO with an additional advantage term: past TD errors of the agent times present advantages of co-players.

    Source: Duque, Aghajohari et al., "Advantage Alignment Algorithms", ICLR 2025.
    """

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> AdvantageAlignmentConfig:
        """Returns the default configuration."""
        return AdvantageAlignmentConfig(algo_class=cls)
