"""The Reciprocator algorithm."""

from __future__ import annotations

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from rllib_reciprocator.algorithms.reciprocator.config import ReciprocatorConfig
from rllib_reciprocator.engine.algorithm import BatchedAlgorithm


class Reciprocator(BatchedAlgorithm):
    """PPO agents with an intrinsic reward for reciprocating the influence that others had on their return.

    Source: Zhou, Hong and Kao, "Reciprocal Reward Influence Encourages Cooperation From Self-Interested Agents",
    NeurIPS 2024. Env runners compute influence and balance in every step with the estimator as last synchronised
    (:mod:`rllib_reciprocator.intrinsic.reciprocity.estimators`); learners fit it and add the weighted reciprocal reward
    (:mod:`rllib_reciprocator.intrinsic.reciprocity.settings`).

    Differs from the paper's code: influence is measured with the estimator of the iteration before, so that a policy
    can be shown its balance while it acts; the clipped objective uses advantages fixed at the start of an update, as
    RLlib's PPO does, where that code takes the new value off the return in every epoch.
    """

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> ReciprocatorConfig:
        """The default configuration."""
        return ReciprocatorConfig(algo_class=cls)
