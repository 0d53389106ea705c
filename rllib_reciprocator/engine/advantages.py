"""Advantages and returns of rollouts that contain several consecutive episodes."""

from __future__ import annotations

import torch
from torch import Tensor

from rllib_reciprocator.utils.distributed import sum_over_learners


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
        ends: ``[B, T]`` bool, True if an episode ended with the step.
        gamma: Discount factor; a number, or a tensor that broadcasts to ``rewards``.
        lambda_: GAE parameter, from 0 (TD errors) to 1 (returns); a number, or a tensor that broadcasts to
            ``rewards``.

    Returns:
        Advantages, ``[B, T, ..]``.
    """
    td_errors = rewards + gamma * next_values - values
    continues = (~ends).to(td_errors.dtype).view(*ends.shape, *[1] * (td_errors.dim() - 2))
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
