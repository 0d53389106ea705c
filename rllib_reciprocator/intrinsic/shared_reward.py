"""Shared reward: to gain by what the others get, as a team does. An upper bound on what cooperation can bring.

Source: prosocial agents as in Peysakhovich and Lerer, "Prosocial learning agents solve generalized stag hunts better
than selfish ones", AAMAS 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor

from rllib_reciprocator.utils.settings import IntrinsicSettings


class SharedRewardSettings(IntrinsicSettings):
    """How much the others' rewards count.

    Attributes:
        weight: Of the sum of the others' rewards beside one's own; with 1 all that everybody gets counts alike.
    """

    weight: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0

    def weight_at(self, iteration: int) -> float:
        """The weight, at any iteration."""
        return self.weight


def rewards(joint: Mapping[str, Tensor], settings: SharedRewardSettings) -> Tensor:
    """What the others got, ``[B, T, N]``.

    Args:
        joint: ``rewards``, ``[B, T, N]``, extrinsic.
        settings: The settings.
    """
    extrinsic = joint["rewards"]
    return extrinsic.sum(-1, keepdim=True) - extrinsic
