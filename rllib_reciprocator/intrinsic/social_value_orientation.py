"""Social value orientation: a preference for a ratio of the other agents' rewards to the agent's own reward.

Source: McKee et al., "Social diversity and social preferences in mixed-motive reinforcement learning", AAMAS 2020. The
utility of agent i is ``r_i - w |theta_SVO - theta(R)|`` with the reward angle ``theta(R) = atan(mean of r_j / r_i)``,
where the mean is over the other agents j: 0 degrees if only i has a reward, 45 if all rewards are equal, 90 if only the
others have rewards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from rllib_reciprocator.engine.intrinsic_reward import IntrinsicReward
from rllib_reciprocator.utils.settings import IntrinsicSettings


class SocialValueOrientationSettings(IntrinsicSettings):
    """Settings of social value orientation.

    Attributes:
        angle: Preferred reward angle in degrees: 0 if only the agent has a reward (individualistic), 45 if it has as
            much as the others on average (prosocial), 90 if only the others have rewards (altruistic).
        weight: Penalty per radian by which the reward angle of a step differs from ``angle``; the paper's ``w``.
        lowest_reward: Reward per step that counts as zero. It is subtracted from rewards before the angle is computed,
            and lower rewards are clipped to it. None for the lowest reward of the environment, or 0 if no reward is
            negative.
    """

    angle: Annotated[float, Field(ge=-180.0, le=180.0)] = 45.0
    weight: Annotated[float, Field(ge=0.0)] = 0.2
    lowest_reward: float | None = None

    def for_game(
        self, *, has_payoffs: bool, num_agents: int, gamma: float, lowest_reward: float | None = None
    ) -> SocialValueOrientationSettings:
        """Returns the settings with ``lowest_reward`` set from the environment, if it is None.

        Args:
            has_payoffs: If True, rewards follow from the joint action alone.
            num_agents: N.
            gamma: Discount factor.
            lowest_reward: Lowest reward of an agent in a step; None if it is not known.

        Raises:
            ValueError: If the lowest reward is neither set nor known.
        """
        if self.lowest_reward is not None:
            return self
        if lowest_reward is None or not math.isfinite(lowest_reward):
            raise ValueError(
                "social_value_orientation.lowest_reward: the lowest reward of the environment is not known; set it,"
                " e.g. to 0.0 if no reward is negative"
            )
        return self.model_copy(update={"lowest_reward": min(0.0, lowest_reward)})

    def weight_at(self, iteration: int) -> float:
        """Returns the weight, which is the same in every iteration."""
        return self.weight


def reward_angles(rewards: Tensor) -> Tensor:
    """Computes the angle between each agent's reward and the mean reward of the others, in radians, ``[.., N]``.

    Args:
        rewards: ``[.., N]``.
    """
    co_player_mean = (rewards.sum(-1, keepdim=True) - rewards) / (rewards.shape[-1] - 1)
    return torch.atan2(co_player_mean, rewards)


def rewards(columns: Mapping[str, Tensor], settings: SocialValueOrientationSettings) -> Tensor:
    """Computes the penalty of every agent for reward angles other than the preferred one, as if all had these settings.

    The paper's angle is defined for rewards that are not negative. With negative rewards the angle of equal rewards
    would depend on their sign. Rewards are therefore measured from the lowest possible reward, which makes no
    difference in the paper's environments. In steps in which no agent has more than that, the angle is not defined and
    the penalty is zero.

    Args:
        columns: ``rewards``, ``[B, T, N]``, extrinsic.
        settings: The settings, with ``lowest_reward`` set (:meth:`SocialValueOrientationSettings.for_game`).

    Returns:
        ``[B, T, N]``, the negative distance of the angles in radians, at most zero, before it is weighted.
    """
    assert settings.lowest_reward is not None
    shifted_rewards = (columns["rewards"] - settings.lowest_reward).clamp(min=0.0)
    distance = (reward_angles(shifted_rewards) - math.radians(settings.angle)).abs()
    distance = torch.minimum(distance, 2 * math.pi - distance)
    return torch.where((shifted_rewards != 0).any(-1, keepdim=True), -distance, 0.0)


class SocialValueOrientation(IntrinsicReward[SocialValueOrientationSettings]):
    """Penalty for reward angles other than the preferred one."""

    settings_class = SocialValueOrientationSettings
    rewards = staticmethod(rewards)
