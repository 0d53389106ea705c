"""The COALA algorithm."""

from __future__ import annotations

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from rllib_reciprocator.algorithms.coala.config import COALAConfig
from rllib_reciprocator.engine.algorithm import BatchedAlgorithm


class COALA(BatchedAlgorithm):
    """Agents with a memory of a whole meta-episode, in which naive learners beside them learn from what they do.

    An iteration samples one meta-episode of all groups of copies; PPO then learns from what actions are credited with
    (:func:`rllib_reciprocator.algorithms.coala.credit.assign_credit`). With ``credit: mfos`` these are the agents of
    M-FOS.

    Source: Meulemans et al., "Multi-agent cooperation through learning-aware policy gradients", ICLR 2025.
    """

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> COALAConfig:
        """The default configuration."""
        return COALAConfig(algo_class=cls)
