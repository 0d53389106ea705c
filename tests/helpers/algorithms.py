"""Algorithms that a user could have written, outside the package."""

from rllib_reciprocator import Reciprocator, ReciprocatorConfig
from rllib_reciprocator.engine import BatchedLearner


class HalvedRewardsLearner(BatchedLearner):
    """Halves the rewards that policies are trained on."""

    def shape_rewards(self, joint):
        return 0.5 * super().shape_rewards(joint)


class HalvedRewardsConfig(ReciprocatorConfig):
    """Configuration of :class:`HalvedRewards`."""

    def get_default_learner_class(self):
        return HalvedRewardsLearner


class HalvedRewards(Reciprocator):
    """Reciprocator with half the rewards."""

    @classmethod
    def get_default_config(cls):
        return HalvedRewardsConfig(algo_class=cls)
