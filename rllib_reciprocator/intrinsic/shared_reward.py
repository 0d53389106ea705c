"""Shared reward: agents also receive the rewards of the others, like a team. An upper bound for cooperation.

Source: prosocial agents as in Peysakhovich and Lerer, "Prosocial learning agents solve generalized stag hunts better
than selfish ones", AAMAS 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor

from rllib_reciprocator.engine.intrinsic_reward import IntrinsicReward
from rllib_reciprocator.utils.settings import IntrinsicSettings


class SharedRewardSettings(IntrinsicSettings):
    """Settings of the shared reward.

    Attributes:
        weight: Weight of the sum of the other agents' rewards, which is added to the agent's own reward. With 1, the
            rewards of all agents count equally.
    """

    weight: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0

    def weight_at(self, iteration: int) -> float:
        """Returns the weight, which is the same in every iteration."""
        return self.weight


def rewards(columns: Mapping[str, Tensor], settings: SharedRewardSettings) -> Tensor:
    """Computes the sum of the other agents' rewards for every agent, ``[B, T, N]``.

    Args:
        columns: ``rewards``, ``[B, T, N]``, extrinsic.
        settings: Not used; the weight is applied later (:meth:`SharedRewardSettings.weight_at`).
    """
    extrinsic = columns["rewards"]
    return extrinsic.sum(-1, keepdim=True) - extrinsic


class SharedReward(IntrinsicReward[SharedRewardSettings]):
    """Sum of the other agents' rewards."""

    settings_class = SharedRewardSettings
    rewards = staticmethod(rewards)
