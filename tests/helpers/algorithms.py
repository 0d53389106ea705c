"""Algorithms that a user could have written, outside the package."""

from collections.abc import Mapping
from typing import ClassVar

from rllib_reciprocator import Reciprocator, ReciprocatorConfig
from rllib_reciprocator.engine import IntrinsicReward, PlayerKind


class HalfTax(IntrinsicReward):
    """Takes away half of each agent's own reward."""

    @staticmethod
    def rewards(columns, settings):
        return -0.5 * columns["rewards"]


class HalvedRewardsConfig(ReciprocatorConfig):
    """Configuration of :class:`HalvedRewards`, with the player ``halved``, a Reciprocator that pays the tax."""

    default_player = "halved"
    extra_player_kinds: ClassVar[Mapping[str, PlayerKind]] = {
        "halved": PlayerKind(intrinsic={"reciprocity": {}, "tests.helpers.algorithms:HalfTax": {}}),
    }


class HalvedRewards(Reciprocator):
    """Reciprocator with half the rewards."""

    @classmethod
    def get_default_config(cls):
        return HalvedRewardsConfig(algo_class=cls)
