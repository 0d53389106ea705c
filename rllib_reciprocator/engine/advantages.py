"""Advantages and returns of streams in which episodes follow each other."""

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
    """Generalized advantage estimates; with ``lambda_`` 1, discounted rewards-to-go less the value.

    Source: Schulman et al. (2016), equation 16.

    Args:
        rewards: ``[B, T, ..]``.
        values: ``[B, T, ..]``, of the observation before each step.
        next_values: ``[B, T, ..]``, of the observation after each step; zero where nothing is to be counted after it.
        ends: ``[B, T]`` bool, whether the episode ended with that step.
        gamma: Discount; a number, or one for each entry of the axes after T.
        lambda_: Weight of later estimates, from 0 (one step) to 1 (to the end); the same.

    Returns:
        ``[B, T, ..]``.
    """
    errors = rewards + gamma * next_values - values
    going_on = (~ends).to(errors.dtype).view(*ends.shape, *[1] * (errors.dim() - 2))
    keep = gamma * lambda_ * going_on
    advantages = torch.empty_like(errors)
    running = torch.zeros_like(errors[:, 0])
    for t in reversed(range(errors.shape[1])):
        running = errors[:, t] + keep[:, t] * running
        advantages[:, t] = running
    return advantages


def subtract_mean(returns: Tensor, mask: Tensor | None) -> Tensor:
    """Subtracts from returns their mean over all episodes, and all learners, at the same step.

    Args:
        returns: ``[B, T, N]``.
        mask: ``[B, T]`` or ``[B, T, N]`` bool, the steps that count in the mean; all of them if None.

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
    """Discounted returns after each step, of every agent; zero after the last step of an episode or of the rollout.

    Args:
        rewards: ``[B, T, N]``.
        ends: ``[B, T]`` bool, whether the episode ended with that step.
        gamma: Discount.

    Returns:
        ``[B, T, N]``: the next step's reward counts in full.
    """
    after = torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1] - 1)):
        after[:, t] = torch.where(ends[:, t, None], 0.0, rewards[:, t + 1] + gamma * after[:, t + 1])
    return after
