"""Social value orientation: to prefer a certain proportion between what the others get and what one gets oneself.

Source: McKee et al., "Social diversity and social preferences in mixed-motive reinforcement learning", AAMAS 2020.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from rllib_reciprocator.typed_settings import IntrinsicSettings


class SocialValueOrientationSettings(IntrinsicSettings):
    """Which proportion an agent prefers, and how much.

    Attributes:
        angle: The reward angle that it prefers, in degrees: 0 for getting everything, 45 for getting as much as the
            others on average (prosocial), 90 for others getting everything (altruistic).
        weight: What it is charged for each radian that the angle of a step is off.
    """

    angle: Annotated[float, Field(ge=-180.0, le=180.0)] = 45.0
    weight: Annotated[float, Field(ge=0.0)] = 0.2

    def weight_at(self, iteration: int) -> float:
        """The weight, at any iteration."""
        return self.weight


def reward_angles(rewards: Tensor) -> Tensor:
    """The angle between what each agent got and what the others got on average, in radians, ``[.., N]``.

    Args:
        rewards: ``[.., N]``.
    """
    others = (rewards.sum(-1, keepdim=True) - rewards) / (rewards.shape[-1] - 1)
    return torch.atan2(others, rewards)


def rewards(joint: Mapping[str, Tensor], settings: SocialValueOrientationSettings) -> Tensor:
    """How far the step is from the proportion that agents with these settings prefer, ``[B, T, N]``, none above zero.

    The paper takes the angle of rewards that are not negative. Here it is that of any rewards (``atan2``), differences
    go the shorter way round, and where nobody got anything there is no angle and nothing is charged.

    Args:
        joint: ``rewards``, ``[B, T, N]``, extrinsic.
        settings: The settings.
    """
    extrinsic = joint["rewards"]
    off = (reward_angles(extrinsic) - math.radians(settings.angle)).abs()
    off = torch.minimum(off, 2 * math.pi - off)
    return torch.where((extrinsic != 0).any(-1, keepdim=True), -off, 0.0)
