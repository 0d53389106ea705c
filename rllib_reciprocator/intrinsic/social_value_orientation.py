"""Social value orientation: to prefer a certain proportion between what the others get and what one gets oneself.

Source: McKee et al., "Social diversity and social preferences in mixed-motive reinforcement learning", AAMAS 2020. The
utility of agent i is ``r_i - w |theta_SVO - theta(R)|`` with the reward angle ``theta(R) = atan(mean of r_j / r_i)``,
the mean being over the others j: 0 degrees where only i gets something, 45 where all get the same, 90 where only others
do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from rllib_reciprocator.utils.settings import IntrinsicSettings


class SocialValueOrientationSettings(IntrinsicSettings):
    """Which proportion an agent prefers, and how much.

    Attributes:
        angle: The reward angle that it prefers, in degrees: 0 for getting everything (individualistic), 45 for getting
            as much as the others on average (prosocial), 90 for others getting everything (altruistic).
        weight: What it is charged for each radian that the angle of a step is off; the paper's ``w``.
        lowest_reward: Reward of a step that counts as getting nothing. It is subtracted before the angle is taken, and
            lower rewards count as it. None for the lowest that the game can give, or 0 if none is negative.
    """

    angle: Annotated[float, Field(ge=-180.0, le=180.0)] = 45.0
    weight: Annotated[float, Field(ge=0.0)] = 0.2
    lowest_reward: float | None = None

    def for_game(
        self, *, has_payoffs: bool, num_agents: int, gamma: float, lowest_reward: float | None = None
    ) -> SocialValueOrientationSettings:
        """Returns the settings with the game's lowest reward, where they have none.

        Args:
            has_payoffs: If True, rewards follow from the joint action alone.
            num_agents: N.
            gamma: The discount of rewards.
            lowest_reward: Lowest reward that an agent can get in a step; None if that is not known.

        Raises:
            ValueError: If the lowest reward is not known.
        """
        if self.lowest_reward is not None:
            return self
        if lowest_reward is None or not math.isfinite(lowest_reward):
            raise ValueError(
                "social_value_orientation.lowest_reward: that of the environment is not known; set it, as 0.0 where no"
                " reward is negative"
            )
        return self.model_copy(update={"lowest_reward": min(0.0, lowest_reward)})

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

    The paper's angle is that of rewards that are not negative; among negative ones the angle of equal rewards depends
    on their sign. Rewards are therefore counted from the lowest there is, which changes nothing in the paper's games.
    Where no agent got more than that there is no angle and nothing is charged.

    Args:
        joint: ``rewards``, ``[B, T, N]``, extrinsic.
        settings: The settings, with the game's lowest reward (:meth:`SocialValueOrientationSettings.for_game`).
    """
    assert settings.lowest_reward is not None
    counted = (joint["rewards"] - settings.lowest_reward).clamp(min=0.0)
    off = (reward_angles(counted) - math.radians(settings.angle)).abs()
    off = torch.minimum(off, 2 * math.pi - off)
    return torch.where((counted != 0).any(-1, keepdim=True), -off, 0.0)
