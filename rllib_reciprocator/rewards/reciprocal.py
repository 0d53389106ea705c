"""The reciprocal reward, and how much of it is added to the extrinsic one."""

from __future__ import annotations

from torch import Tensor

from rllib_reciprocator.rewards.rules import ReciprocalRule


def reciprocal_reward(balance: Tensor, influence: Tensor, rule: ReciprocalRule) -> Tensor:
    """The reward of each agent for answering what the others did to it in kind.

    Source: Zhou, Hong and Kao (2024): the mean over the others j of i's balance towards j before the step times
    v[i->j], what i's action in the step does to j.

    Args:
        balance: ``[.., N, N]`` by ``[j, i]``: the balance of i towards j before the step.
        influence: ``[.., N, N]`` by ``[j, i]``: the step's influence of j on i, as j takes it to be.
        rule: Where only signs count.

    Returns:
        ``[.., N]``.
    """
    given = influence.transpose(-1, -2)
    if rule.sign_of_balance:
        balance = balance.sign()
    if rule.sign_of_influence:
        given = given.sign()
    answered = balance * given
    total = answered.sum(-2) - answered.diagonal(dim1=-2, dim2=-1)
    return total / (influence.shape[-1] - 1)


def scheduled_weight(start: float, end: float, per_iteration: float, iteration: int) -> float:
    """The weight of the reciprocal reward at an iteration: from start to end by a fixed step, up or down.

    Args:
        start: Weight at iteration 0.
        end: Weight that is kept once reached.
        per_iteration: Size of the step, at least 0.
        iteration: The iteration, from 0.
    """
    moved = per_iteration * iteration
    return min(start + moved, end) if end >= start else max(start - moved, end)
