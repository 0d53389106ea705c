"""Advantages and returns of rollouts that contain several consecutive episodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rllib_reciprocator.engine.update_rule import AdvantageStep
from rllib_reciprocator.utils.distributed import deviation, standardized, sum_over_learners

if TYPE_CHECKING:
    from rllib_reciprocator.engine.learner import BatchedLearner
    from rllib_reciprocator.engine.rollout_batch import RolloutBatch


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    ends: Tensor,
    *,
    gamma: float | Tensor,
    lambda_: float | Tensor,
) -> Tensor:
    """Computes generalized advantage estimates (GAE); with ``lambda_=1``, discounted rewards-to-go minus the value.

    Source: Schulman et al. (2016), equation 16.

    Args:
        rewards: ``[B, T, ..]``.
        values: ``[B, T, ..]``, values of the observations before each step.
        next_values: ``[B, T, ..]``, values of the observations after each step; zero where rewards after the step do
            not count.
        ends: ``[B, T]`` bool, or ``[B, T, N]``, True if an episode ended with the step.
        gamma: Discount factor; a number, or a tensor that broadcasts to ``rewards``.
        lambda_: GAE parameter, from 0 (TD errors) to 1 (returns); a number, or a tensor that broadcasts to
            ``rewards``.

    Returns:
        Advantages, ``[B, T, ..]``.
    """
    td_errors = rewards + gamma * next_values - values
    continues = (~ends).to(td_errors.dtype).view(*ends.shape, *[1] * (td_errors.dim() - ends.dim()))
    decay = gamma * lambda_ * continues
    advantages = torch.empty_like(td_errors)
    running = torch.zeros_like(td_errors[:, 0])
    for t in reversed(range(td_errors.shape[1])):
        running = td_errors[:, t] + decay[:, t] * running
        advantages[:, t] = running
    return advantages


def subtract_mean(returns: Tensor, mask: Tensor | None) -> Tensor:
    """Subtracts from each return the mean over all episodes, of all learners, at the same step.

    Args:
        returns: ``[B, T, N]``.
        mask: ``[B, T]`` or ``[B, T, N]`` bool, the steps that count in the mean; None if all do.

    Returns:
        ``[B, T, N]``.
    """
    if mask is None:
        weights = torch.ones_like(returns[..., :1])
    else:
        weights = (mask if mask.dim() == returns.dim() else mask[..., None]).to(returns.dtype)
    sums = sum_over_learners(torch.cat([returns * weights, weights], -1).sum(0))
    totals, counts = sums.split([returns.shape[-1], weights.shape[-1]], -1)
    return returns - totals / counts.clamp(min=1.0)


def returns_after(rewards: Tensor, ends: Tensor, gamma: float) -> Tensor:
    """Computes each agent's discounted return after each step, without the reward of the step.

    Args:
        rewards: ``[B, T, N]``.
        ends: ``[B, T]`` bool, True if an episode ended with the step.
        gamma: Discount factor.

    Returns:
        ``[B, T, N]``; the reward of the next step is not discounted. Zero after the last step of an episode or of the
        rollout.
    """
    after = torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1] - 1)):
        after[:, t] = torch.where(ends[:, t, None], 0.0, rewards[:, t + 1] + gamma * after[:, t + 1])
    return after


class GeneralizedAdvantages(AdvantageStep):
    """Computes GAE advantages and value targets of all agents; lambda is 1 for update rules without a critic."""

    def __call__(self, batch: RolloutBatch) -> None:
        """Sets advantages and value targets."""
        batch.advantages = generalized_advantages(
            batch.shaped_rewards,
            batch.values,
            batch.next_values,
            batch.ends,
            gamma=self.learner.members.gamma.lookup(batch.pool_members),
            lambda_=self.learner.members.lambda_.lookup(batch.pool_members),
        )
        batch.value_targets = batch.advantages + batch.values


class MeanBaseline(AdvantageStep):
    """Subtracts the mean over episodes at each step from the advantages of players trained on returns."""

    def __call__(self, batch: RolloutBatch) -> None:
        """Changes advantages."""
        centered_advantages = self.learner.members.over_members(batch, subtract_mean, batch.advantages)
        batch.advantages = torch.where(
            self.learner.members.centered.lookup(batch.pool_members), centered_advantages, batch.advantages
        )


class NormalizedReturns(AdvantageStep):
    """Standardizes value targets per agent, before values are subtracted to get advantages (``normalize_returns``)."""

    def __call__(self, batch: RolloutBatch) -> None:
        """Changes advantages and value targets."""
        batch.value_targets = self.learner.members.over_members(batch, _standardized_by_agent, batch.value_targets)
        batch.advantages = batch.value_targets - batch.values


class JointScale(AdvantageStep):
    """Divides advantages by their standard deviation over all players that learn from them (``scale_advantages``)."""

    def __init__(self, learner: BatchedLearner, path: str = "") -> None:
        """Flags the pool members that learn from advantages."""
        super().__init__(learner, path)
        self.flags = self.context.member_flags(
            lambda player: player.learns and self.config.rule_class(player).uses_advantages, learner.device
        )

    def __call__(self, batch: RolloutBatch) -> None:
        """Changes advantages."""
        mask = self.context.mask(batch).where(self.flags, batch.advantages)
        counted_advantages = batch.advantages.transpose(1, 2)[mask.transpose(1, 2)]
        batch.advantage_scale = deviation(counted_advantages, (0,))
        batch.advantages = batch.advantages / batch.advantage_scale

    def derivatives(self, batch: RolloutBatch, derivatives: Tensor) -> Tensor:
        """Returns the derivatives of a loss by the advantages before this step.

        Args:
            batch: The rollout, to which this step was applied last.
            derivatives: ``[B, T, N]``, derivatives by the advantages after this step.

        Returns:
            ``[B, T, N]``; zero for players that do not learn from advantages.
        """
        assert batch.advantage_scale is not None
        weights = self.context.mask(batch).where(self.flags, batch.advantages).to(derivatives.dtype)
        sums = torch.stack(
            [
                (derivatives * batch.advantages * weights).sum(),
                (batch.advantages * weights).sum(),
                weights.sum(),
            ]
        )
        correlation, total, count = sum_over_learners(sums)
        # The standard deviation changes with each advantage by its distance from the mean, divided by the count.
        change = correlation * (batch.advantages - total / count) / count
        return (derivatives - change) / batch.advantage_scale * weights


def _standardized_by_agent(values: Tensor, mask: Tensor | None) -> Tensor:
    """Standardizes values ``[B, T, N]`` per agent, over the steps where the mask ``[B, T, N]`` is true."""
    masks = [None] * values.shape[-1] if mask is None else mask.unbind(-1)
    columns = zip(values.unbind(-1), masks, strict=True)
    return torch.stack([standardized(column, agent_mask) for column, agent_mask in columns], -1)
