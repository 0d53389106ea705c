"""The learner: what one has had so far times what the others get now, added to one's advantages."""

from __future__ import annotations

import torch
from ray.rllib.utils.annotations import override
from torch import Tensor

from rllib_reciprocator.algorithms.advantage_alignment.config import ALIGNED
from rllib_reciprocator.batched.learner import BatchedLearner, Joint
from rllib_reciprocator.distributed import deviation


def alignment(gains: Tensor, advantages: Tensor, is_first: Tensor, gamma: Tensor) -> Tensor:
    """What agents have had so far times what the others get now.

    ``gamma * [sum over k < t of gamma^(t - k) d_i(k)] * sum over j != i of A_j(t)``

    Source: Duque, Aghajohari et al., "Advantage Alignment Algorithms", ICLR 2025. What is summed over the past, d, are
    one-step errors, which are known before the step; the released code takes the mean of generalized advantages there,
    which share noise with the present, and play then swings.

    Args:
        gains: ``[B, T, N]``, d, one-step temporal-difference errors.
        advantages: ``[B, T, N]``, A.
        is_first: ``[B, T]`` bool, whether an episode begins with the step.
        gamma: ``[N]``, discounts.

    Returns:
        ``[B, T, N]``.
    """
    had = torch.empty_like(gains)
    running = torch.zeros_like(gains[:, 0])
    for t in range(gains.shape[1]):
        running = torch.where(is_first[:, t, None], 0.0, running)
        had[:, t] = running
        running = gamma * (running + gains[:, t])
    return gamma * had * (advantages.sum(-1, keepdim=True) - advantages)


class AdvantageAlignmentLearner(BatchedLearner):
    """PPO on aligned advantages, for the players that ask for it."""

    @override(BatchedLearner)
    def build(self) -> None:
        """Notes who aligns its advantages, and who learns."""
        super().build()
        players = self.config.assigned_players
        self._align = torch.tensor([player.algorithm == ALIGNED for player in players], device=self._device)
        self._learn = torch.tensor([float(player.learns) for player in players], device=self._device)

    @override(BatchedLearner)
    def transform_advantages(self, joint: Joint, advantages: Tensor) -> Tensor:
        """``A_i + weight * alignment``, for some agents; each factor in units of its deviation.

        So the weight does not depend on how large rewards are. Agents that do not learn have no values, and so no
        advantages that would count for the others.
        """
        gains = joint["shaped_rewards"] + self._gamma * joint["next_values"] - joint["values"]
        gains, own = (each / deviation(each, (0, 1)) for each in (gains, advantages))
        found = own + self.config.alignment_weight * alignment(gains, own * self._learn, joint["is_first"], self._gamma)
        return torch.where(self._align, found, advantages)
