"""Inequity aversion: a penalty for having less than others and, with a smaller weight, for having more.

Source: Hughes et al., "Inequity aversion improves cooperation in intertemporal social dilemmas", NeurIPS 2018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from rllib_reciprocator.engine.intrinsic_reward import IntrinsicReward
from rllib_reciprocator.engine.tracker import JointStep, StepTracker
from rllib_reciprocator.utils.settings import IntrinsicSettings, Share

if TYPE_CHECKING:
    from ray.rllib.core.rl_module.rl_module import RLModule

    from social_dilemmas.batched_game import BatchedGame

SMOOTHED_REWARDS = "smoothed_rewards"


class InequityAversionSettings(IntrinsicSettings):
    """Settings of inequity aversion; the defaults are the paper's.

    Attributes:
        alpha: Weight of having less than another agent (disadvantageous inequity).
        beta: Weight of having more than another agent (advantageous inequity).
        decay: Decay of the smoothed rewards per step; the paper's product of gamma and lambda.
    """

    alpha: Annotated[float, Field(ge=0.0)] = 5.0
    beta: Annotated[float, Field(ge=0.0)] = 0.05
    decay: Share = 0.975


class SmoothedRewardsTracker(StepTracker):
    """Step tracker that smooths the rewards of all agents over time, with the decay of each agent that has the reward.

    ``e_j(t) = decay * e_j(t - 1) + r_j(t)``, zero before the first step of an episode.
    """

    def __init__(self, game: BatchedGame, settings: Sequence[InequityAversionSettings | None]) -> None:
        """Starts with smoothed rewards of zero.

        Args:
            game: The environments.
            settings: Settings of each agent that has inequity aversion, None for the others.
        """
        decays = [agent_settings.decay if agent_settings else 0.0 for agent_settings in settings]
        self._decay = torch.tensor(decays, device=game.device)[:, None]
        self._smoothed = torch.zeros(game.num_games, len(decays), len(decays), device=game.device)

    def start(self, where: Tensor | None) -> None:
        """Resets the smoothed rewards of the environments ``where``, ``[B]`` bool, or of all environments if None."""
        zeros = torch.zeros_like(self._smoothed)
        self._smoothed = zeros if where is None else torch.where(where[:, None, None], zeros, self._smoothed)

    def after(self, step: JointStep) -> dict[str, Tensor]:
        """Adds a step to the smoothed rewards.

        Returns:
            ``smoothed_rewards [B, N, N]`` by ``[i, j]``: rewards of j, smoothed with the decay of i.
        """
        self._smoothed = self._decay * self._smoothed + step.rewards[:, None]
        return {SMOOTHED_REWARDS: self._smoothed}

    def get_state(self) -> dict[str, Tensor]:
        """Returns the smoothed rewards."""
        return {SMOOTHED_REWARDS: self._smoothed}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state that :meth:`get_state` returned."""
        self._smoothed = state[SMOOTHED_REWARDS].to(self._smoothed.device)


def rewards(columns: Mapping[str, Tensor], settings: InequityAversionSettings) -> Tensor:
    """Computes the inequity penalty of every agent, as if all agents had these settings.

    ``- alpha / (N - 1) * sum over j of max(e_j - e_i, 0) - beta / (N - 1) * sum over j of max(e_i - e_j, 0)``
    (the paper's subjective reward, minus the extrinsic reward).

    Args:
        columns: ``smoothed_rewards``, ``[B, T, N, N]`` by ``[i, j]``, rewards of j, smoothed with the decay of i.
        settings: The settings.

    Returns:
        ``[B, T, N]``, at most zero.
    """
    smoothed_rewards = columns[SMOOTHED_REWARDS]
    self_rewards = smoothed_rewards.diagonal(dim1=-2, dim2=-1)[..., None]
    disadvantage, advantage = (
        (smoothed_rewards - self_rewards).clamp(min=0.0),
        (self_rewards - smoothed_rewards).clamp(min=0.0),
    )
    return -(settings.alpha * disadvantage + settings.beta * advantage).sum(-1) / (smoothed_rewards.shape[-1] - 1)


class InequityAversion(IntrinsicReward[InequityAversionSettings]):
    """Penalty for inequity of smoothed rewards."""

    settings_class = InequityAversionSettings
    rewards = staticmethod(rewards)

    def tracker(self, game: BatchedGame, modules: Mapping[str, RLModule]) -> SmoothedRewardsTracker:
        """Builds the tracker of smoothed rewards."""
        return SmoothedRewardsTracker(game, self.tracked_settings())
