"""What an action is worth in a meta-episode, in whose inner episodes co-players learn.

Copies of a game come in groups, in each of which the co-players that learn are the same and learn from all its copies
between one inner episode and the next. So what an agent does in one copy changes what comes later in all copies of its
group, and in the present inner episode only what comes in its own.

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
    learns_beside: Tensor,
    *,
    inner_steps: int,
    copies: int,
    decay: float | Tensor,
    credit: Credit,
) -> Tensor:
    """What every action is credited with: the rest of its inner episode, and later ones of its group.

    With ``coala`` the mean over copies of ``credited * grad log pi`` is the gradient of the mean return of a copy, if
    signals are rewards, or one-step errors of any critic of the rest of the own copy's meta-episode. Where nobody
    learns beside an agent copies are independent, and later inner episodes of its own copy count, with every rule but
    ``myopic``.

    | credit | later inner episodes | |
    |---|---|---|
    | ``coala`` | sum over the copies of the group | the paper's estimator, times the number of copies |
    | ``mfos`` | mean over the copies | that of M-FOS's code (Lu et al., 2022) |
    | ``unaware`` | the own copy's | recurrent PPO on copies as if they had nothing to do with each other |
    | ``myopic`` | none | |

    Args:
        signals: ``[B, T, N]``, of whole meta-episodes; row ``k * copies + c`` is copy c of group k.
        learns_beside: ``[B, N]`` bool, whether anybody else in that game learns between inner episodes; the same in all
            copies of a group.
        inner_steps: Steps of an inner episode, of which T is a multiple.
        copies: Of a group.
        decay: Discount times lambda; a number, ``[N]``, or ``[B, N]``, the same in all copies of a group.
        credit: The rule.

    Returns:
        ``[B, T, N]``.
    """
    found = torch.empty_like(signals)
    running = torch.zeros_like(signals[:, 0])
    later = torch.zeros_like(signals[::copies, 0])
    group_decay = decay[::copies] if isinstance(decay, Tensor) and decay.dim() == 2 else decay
    for t in reversed(range(signals.shape[1])):
        if credit != "unaware" and t % inner_steps == inner_steps - 1:
            if credit == "myopic":
                running = torch.zeros_like(running)
            else:
                of_group = (copies * later if credit == "coala" else later).repeat_interleave(copies, 0)
                running = torch.where(learns_beside, of_group, running)
        running = signals[:, t] + decay * running
        later = signals[:, t].unflatten(0, (-1, copies)).mean(1) + group_decay * later
        found[:, t] = running
    return found


def leave_one_out_baseline(credit: Tensor, counted: Tensor, copies: int) -> Tensor:
    """Credit less its mean over the other groups, of all learners, at the same step.

    An agent's own actions do not change that mean, so it changes nothing in expectation.

    Args:
        credit: ``[B, T, N]``.
        counted: ``[B, N]`` bool, which are centred, and by which; the same in all copies of a group.
        copies: Of a group.

    Returns:
        ``[B, T, N]``; unchanged where no other group counts.
    """
    of_groups = credit.unflatten(0, (-1, copies)).mean(1)
    counts = counted[::copies, None].to(credit.dtype)
    sums = sum_over_learners(torch.cat([of_groups * counts, counts], 1).sum(0))
    total, count = sums[:-1], sums[-1]
    others = (total - of_groups.repeat_interleave(copies, 0)) / (count - 1.0).clamp(min=1.0)
    return torch.where(counted[:, None] & (count > 1.0), credit - others, credit)
