"""Advantages of many games at once."""

from __future__ import annotations

import torch
from torch import Tensor


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    ends: Tensor,
    *,
    gamma: float,
    lambda_: float,
) -> Tensor:
    """Generalized advantage estimates; with ``lambda_`` 1, discounted rewards-to-go less the value.

    Source: Schulman et al. (2016), equation 16.

    Args:
        rewards: ``[B, T]``.
        values: ``[B, T]``, of the observation before each step.
        next_values: ``[B, T]``, of the observation after each step; zero where nothing is to be counted after it.
        ends: ``[B, T]`` bool, whether the episode ended with that step.
        gamma: Discount.
        lambda_: Weight of later estimates, from 0 (one step) to 1 (to the end).

    Returns:
        ``[B, T]``.
    """
    errors = rewards + gamma * next_values - values
    keep = gamma * lambda_ * (~ends).to(errors.dtype)
    advantages = torch.empty_like(errors)
    running = torch.zeros_like(errors[:, 0])
    for t in reversed(range(errors.shape[1])):
        running = errors[:, t] + keep[:, t] * running
        advantages[:, t] = running
    return advantages


def values_after(values: Tensor, last_values: Tensor, nothing_after: Tensor) -> Tensor:
    """The value of the observation after each step.

    Args:
        values: ``[B, T]``, of the observation before each step.
        last_values: ``[B]``, of the observation after the last step.
        nothing_after: ``[B, T]`` bool, whether nothing is to be counted after that step.

    Returns:
        ``[B, T]``.
    """
    after = torch.cat([values[:, 1:], last_values[:, None]], 1)
    return torch.where(nothing_after, 0.0, after)


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
