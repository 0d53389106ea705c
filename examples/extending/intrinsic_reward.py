"""An intrinsic reward: the mean reward of the other agents."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rllib_reciprocator.engine import IntrinsicReward
from rllib_reciprocator.utils.settings import IntrinsicSettings


class AltruismSettings(IntrinsicSettings):
    """Settings of altruism.

    Attributes:
        weight: Weight of the reward.
    """

    weight: float = 0.5

    def weight_at(self, iteration: int) -> float:
        """Returns the weight, which is the same in every iteration."""
        return self.weight


class Altruism(IntrinsicReward[AltruismSettings]):
    """Rewards agents for the rewards of others."""

    settings_class = AltruismSettings

    @staticmethod
    def rewards(columns: Mapping[str, Tensor], settings: AltruismSettings) -> Tensor:
        """Returns the mean extrinsic reward of the other agents, ``[B, T, N]``."""
        extrinsic = columns["rewards"]
        return (extrinsic.sum(-1, keepdim=True) - extrinsic) / (extrinsic.shape[-1] - 1)
