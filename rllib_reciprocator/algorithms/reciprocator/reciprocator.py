"""The Reciprocator algorithm."""

from __future__ import annotations

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from rllib_reciprocator.algorithms.reciprocator.config import ReciprocatorConfig
from rllib_reciprocator.engine.algorithm import BatchedAlgorithm


class Reciprocator(BatchedAlgorithm):
    """PPO with an intrinsic reward for reciprocating the influence that co-players had on the agent's return.

    Source: Zhou, Hong and Kao, "Reciprocal Reward Influence Encourages Cooperation From Self-Interested Agents",
    NeurIPS 2024. Env runners compute influence and influence balance in every step with the estimator of the last
    synchronization (:mod:`rllib_reciprocator.intrinsic.reciprocity.estimators`). Learners train the estimator and add
    the weighted reciprocal reward (:mod:`rllib_reciprocator.intrinsic.reciprocity.settings`).

    Differs from the paper's code: influence is computed with the estimator of the previous iteration, so that a policy
    can observe its balance while it acts. The clipped objective uses advantages that are fixed at the start of an
    update, as in RLlib's PPO; the paper's code subtracts the new value from the return in every epoch.
    """

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> ReciprocatorConfig:
        """Returns the default configuration."""
        return ReciprocatorConfig(algo_class=cls)
