"""Credit assignment over meta-episodes in which co-players learn between inner episodes.

Environments form groups. All environments of a group share the same online learners, which update on all of them
between two inner episodes. Therefore an action affects later inner episodes in all environments of its group, but the
rest of the current inner episode only in its own environment.

Source: Meulemans et al., "Multi-agent cooperation through learning-aware policy gradients", ICLR 2025.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rllib_reciprocator.utils.distributed import sum_over_learners

Credit = Literal["coala", "mfos", "unaware", "myopic"]


def assign_credit(
    signals: Tensor,
    with_learners: Tensor,
    *,
    inner_steps: int,
    copies: int,
    decay: float | Tensor,
    credit: Credit,
) -> Tensor:
    """Computes the credit of every action: the rest of its inner episode, and later inner episodes of its group.

    With ``coala`` the mean over environments of ``credit * grad log pi`` is the gradient of the mean return of an
    environment, if signals are rewards, or TD errors of any critic of the rest of the meta-episode in the same
    environment. If no co-player of an agent learns, environments are independent, and later inner episodes of the same
    environment count, with every rule except ``myopic``.

    | credit | later inner episodes | |
    |---|---|---|
    | ``coala`` | sum over the environments of the group | the paper's estimator, times the size of the group |
    | ``mfos`` | mean over the environments of the group | as in the code of M-FOS (Lu et al., 2022) |
    | ``unaware`` | same environment only | recurrent PPO that treats environments as independent |
    | ``myopic`` | none | |

    Args:
        signals: ``[B, T, N]``, over whole meta-episodes; row ``k * copies + c`` is environment c of group k.
        with_learners: ``[B, N]`` bool, true where another agent of the environment learns between inner episodes; equal
            in all environments of a group.
        inner_steps: Number of steps of an inner episode; divides T.
        copies: Number of environments per group.
        decay: Discount times lambda: a number, ``[N]``, or ``[B, N]`` with equal values in all environments of a group.
        credit: Rule of credit assignment.

    Returns:
        Credit, ``[B, T, N]``.
    """
    result = torch.empty_like(signals)
    running = torch.zeros_like(signals[:, 0])
    later = torch.zeros_like(signals[::copies, 0])
    group_decay = decay[::copies] if isinstance(decay, Tensor) and decay.dim() == 2 else decay
    for t in reversed(range(signals.shape[1])):
        if credit != "unaware" and t % inner_steps == inner_steps - 1:
            # At the last step of an inner episode, replaces the credit of what follows by that of the whole group.
            if credit == "myopic":
                running = torch.zeros_like(running)
            else:
                group_credit = (copies * later if credit == "coala" else later).repeat_interleave(copies, 0)
                running = torch.where(with_learners, group_credit, running)
        running = signals[:, t] + decay * running
        later = signals[:, t].unflatten(0, (-1, copies)).mean(1) + group_decay * later
        result[:, t] = running
    return result


def leave_one_out_baseline(credit: Tensor, counted: Tensor, copies: int) -> Tensor:
    """Subtracts from credit its mean over the other groups, of all learners, at the same step.

    The baseline does not depend on the agent's own actions, so the gradient is the same in expectation.

    Args:
        credit: ``[B, T, N]``.
        counted: ``[B, N]`` bool, the entries that are centered and over which means are taken; equal in all
            environments of a group.
        copies: Number of environments per group.

    Returns:
        Centered credit, ``[B, T, N]``; unchanged where no other group counts.
    """
    group_means = credit.unflatten(0, (-1, copies)).mean(1)
    weights = counted[::copies, None].to(credit.dtype)
    sums = sum_over_learners(torch.cat([group_means * weights, weights], 1).sum(0))
    total, count = sums[:-1], sums[-1]
    baseline = (total - group_means.repeat_interleave(copies, 0)) / (count - 1.0).clamp(min=1.0)
    return torch.where(counted[:, None] & (count > 1.0), credit - baseline, credit)
