"""The COALA algorithm."""

from __future__ import annotations

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from rllib_reciprocator.algorithms.coala.config import COALAConfig
from rllib_reciprocator.engine.algorithm import BatchedAlgorithm


class COALA(BatchedAlgorithm):
    """PPO with memory over whole meta-episodes and with credit assignment through the learning of co-players.

    An iteration samples one meta-episode of all groups of environments, in which naive online learners update between
    inner episodes. PPO then trains on the credit of each action
    (:func:`rllib_reciprocator.algorithms.coala.credit.assign_credit`). ``credit: mfos`` gives the algorithm M-FOS.

    Source: Meulemans et al., "Multi-agent cooperation through learning-aware policy gradients", ICLR 2025.
    """

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> COALAConfig:
        """Returns the default configuration."""
        return COALAConfig(algo_class=cls)
