"""What several learners need to learn as one: sums over all of them, and modules that have nothing to average."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def sum_over_learners(values: Tensor) -> Tensor:
    """The elementwise sum of ``values`` over all learner processes; ``values`` itself where there is one."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    total = values.clone()
    torch.distributed.all_reduce(total)
    return total


def most_of_learners(count: int, device: torch.device | str = "cpu") -> int:
    """The largest ``count`` of all learner processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return count
    most = torch.tensor(count, device=device)
    torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
    return int(most)


def standardized(values: Tensor) -> Tensor:
    """Values less their mean over their standard deviation, both taken over all learners.

    A constant input gives zeros.
    """
    moments = torch.stack([values.sum(), torch.tensor(float(values.numel()), device=values.device)])
    total, count = sum_over_learners(moments)
    centered = values - total / count
    variance = sum_over_learners(centered.square().sum()) / count
    return centered / (variance.sqrt() + 1e-8)


class NothingToAverage:
    """For RLModules without parameters, which PyTorch cannot wrap for distributed training.

    RLlib's learner asks every torch module for the context in which gradients are not averaged.
    """

    def no_sync(self) -> AbstractContextManager[None]:
        """A context that changes nothing."""
        return nullcontext()
