"""Inequity aversion: to mind having less than others, and, less so, having more.

Source: Hughes et al., "Inequity aversion improves cooperation in intertemporal social dilemmas", NeurIPS 2018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from rllib_reciprocator.utils.settings import IntrinsicSettings, Share

if TYPE_CHECKING:
    from rllib_reciprocator.engine.tracker import JointStep
    from social_dilemmas.batched_game import BatchedGame

SMOOTHED_REWARDS = "smoothed_rewards"


class InequityAversionSettings(IntrinsicSettings):
    """How much agents mind inequity; the defaults are the paper's.

    Attributes:
        alpha: For having less than another (disadvantageous inequity).
        beta: For having more (advantageous inequity).
        decay: Of rewards as agents remember them, from step to step; the paper's product of gamma and lambda.
    """

    alpha: Annotated[float, Field(ge=0.0)] = 5.0
    beta: Annotated[float, Field(ge=0.0)] = 0.05
    decay: Share = 0.975


class SmoothedRewardsTracker:
    """Remembers what every agent got of late, as each agent that minds inequity remembers it.

    ``e_j(t) = decay * e_j(t - 1) + r_j(t)``, zero before an episode's first step.
    """

    needs_state = needs_probs = False

    def __init__(self, game: BatchedGame, settings: Sequence[InequityAversionSettings | None]) -> None:
        """Remembers nothing yet.

        Args:
            game: The games that are played.
            settings: Of each agent that minds inequity.
        """
        decays = [each.decay if each else 0.0 for each in settings]
        self._decay = torch.tensor(decays, device=game.device)[:, None]
        self._smoothed = torch.zeros(game.num_games, len(decays), len(decays), device=game.device)

    def start(self, where: Tensor | None) -> None:
        """Forgets what was before, in the games ``[B]`` bool that start anew, or in all."""
        fresh = torch.zeros_like(self._smoothed)
        self._smoothed = fresh if where is None else torch.where(where[:, None, None], fresh, self._smoothed)

    def inputs(self) -> dict[str, Tensor]:
        """Nothing that policies see."""
        return {}

    def after(self, step: JointStep) -> dict[str, Tensor]:
        """Remembers the step; ``smoothed_rewards [B, N, N]`` by ``[i, j]``: those of j as i remembers them."""
        self._smoothed = self._decay * self._smoothed + step.rewards[:, None]
        return {SMOOTHED_REWARDS: self._smoothed}

    def finish(self) -> dict[str, Tensor]:
        """Nothing: a step is remembered when it was played."""
        return {}

    def log(self, metrics: Any, agents: Sequence[str], joint: Mapping[str, Tensor]) -> None:
        """Nothing: what agents mind is told where it is paid."""

    def get_state(self) -> dict[str, Tensor]:
        """What is remembered."""
        return {SMOOTHED_REWARDS: self._smoothed}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` returned."""
        self._smoothed = state[SMOOTHED_REWARDS].to(self._smoothed.device)


def tracker(
    game: BatchedGame, settings: Sequence[InequityAversionSettings | None], **kwargs: Any
) -> SmoothedRewardsTracker:
    """What remembers rewards in the env runner."""
    return SmoothedRewardsTracker(game, settings)


def rewards(joint: Mapping[str, Tensor], settings: InequityAversionSettings) -> Tensor:
    """What every agent minds, as if all had these settings.

    ``- alpha / (N - 1) * sum over j of max(e_j - e_i, 0) - beta / (N - 1) * sum over j of max(e_i - e_j, 0)``
    (the paper's subjective reward, less the extrinsic one).

    Args:
        joint: ``smoothed_rewards``, ``[B, T, N, N]`` by ``[i, j]``, those of j as i remembers them.
        settings: The settings.

    Returns:
        ``[B, T, N]``, none above zero.
    """
    smoothed = joint[SMOOTHED_REWARDS]
    own = smoothed.diagonal(dim1=-2, dim2=-1)[..., None]
    more, less = (smoothed - own).clamp(min=0.0), (own - smoothed).clamp(min=0.0)
    return -(settings.alpha * more + settings.beta * less).sum(-1) / (smoothed.shape[-1] - 1)
