"""Influence balance: what each agent has had from each other, less what it gave."""

from __future__ import annotations

import torch
from torch import Tensor

from rllib_reciprocator.rewards.rules import ReciprocalRule


def balance_after(
    balance: Tensor, influence: Tensor, rule: ReciprocalRule, decay: float, given: Tensor | None = None
) -> Tensor:
    """Moves the balance on by one step.

    Args:
        balance: ``[.., N, N]`` by ``[j, i]``: the balance of i towards j before the step.
        influence: ``[.., N, N]`` by ``[j, i]``: the step's influence of j on i, as i takes it to be.
        rule: What is credited and debited.
        decay: Share of the balance that is kept from one step to the next.
        given: The same as j takes it to be, where the two may differ.

    Returns:
        The balance after the step, of the same shape.
    """
    credited = influence
    if rule.debits_given:
        credited = credited - (influence if given is None else given).transpose(-1, -2)
    if rule.debits_own:
        credited = credited - influence.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    return decay * balance + credited


def balance(
    influence: Tensor, rule: ReciprocalRule, decay: float, starts: Tensor, initial: Tensor | None = None
) -> Tensor:
    """The balance before every step of a rollout; zero where an episode starts.

    Source: Zhou, Hong and Kao (2024), definition of the influence balance. The balance is taken before the step,
    because agent i cannot yet know what the others do in it.

    Args:
        influence: ``[T, .., N, N]`` by ``[j, i]``.
        rule: What is credited and debited.
        decay: Share of the balance that is kept from one step to the next.
        starts: ``[T, ..]`` bool, whether an episode starts with that step.
        initial: ``[.., N, N]``, the balance that episodes under way came with; zero if None.

    Returns:
        ``[T, .., N, N]`` by ``[j, i]``: the balance of i towards j before step t.
    """
    before = torch.zeros_like(influence)
    running = torch.zeros_like(influence[0]) if initial is None else initial
    for t in range(len(influence)):
        running = torch.where(starts[t][..., None, None], 0.0, running)
        before[t] = running
        running = balance_after(running, influence[t], rule, decay)
    return before
