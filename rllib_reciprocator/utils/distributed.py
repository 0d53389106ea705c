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


def mean_over_learners(values: Tensor) -> Tensor:
    """The elementwise mean of ``values`` over all learner processes; ``values`` itself where there is one."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    return sum_over_learners(values) / torch.distributed.get_world_size()


def all_reduce_max(count: int, device: torch.device | str = "cpu") -> int:
    """The largest ``count`` of all learner processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return count
    most = torch.tensor(count, device=device)
    torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
    return int(most)


def rank_of_learner() -> int:
    """Which of the learners this process is, from 0."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0
    return torch.distributed.get_rank()


def standardized(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Values less their mean over their standard deviation, both taken over all learners.

    A constant input gives zeros.

    Args:
        values: Of any shape.
        mask: Of the same shape, which values count in mean and deviation; all of them if None.
    """
    weights = torch.ones_like(values) if mask is None else mask.to(values.dtype)
    moments = torch.stack([(values * weights).sum(), weights.sum()])
    total, count = sum_over_learners(moments)
    count = count.clamp(min=1.0)
    centered = values - total / count
    variance = sum_over_learners((centered.square() * weights).sum()) / count
    return centered / (variance.sqrt() + 1e-8)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the mean of the values ``[rows]`` where a mask ``[rows]`` is true; zero if it is true nowhere."""
    if mask is None:
        return values.mean()
    weights = mask.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1.0)


def mean_of_counted(values: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the sum of the values that count over the mean number of these on a learner, of all learners.

    The gradient, averaged over learners, is then that of the mean over the rows of all learners, however the rows that
    count are spread.

    Args:
        values: ``[rows]``.
        mask: ``[rows]`` bool, the rows that count; all of them if None.
    """
    if mask is None:
        return values.mean()
    weights = mask.to(values.dtype)
    return (values * weights).sum() / mean_over_learners(weights.sum()).clamp(min=1.0)


def deviation(values: Tensor, axes: tuple[int, ...], mask: Tensor | None = None) -> Tensor:
    """Returns the standard deviation over some axes, which are kept, and over all learners, above zero.

    Args:
        values: Of any shape.
        axes: The axes.
        mask: Of the same shape, bool, the values that count; all of them if None.
    """
    weights = None if mask is None else mask.to(values.dtype)
    total = (values if weights is None else values * weights).sum(axes, keepdim=True)
    if weights is None:
        count = sum_over_learners(torch.full((), values.numel() / total.numel(), device=values.device))
    else:
        count = sum_over_learners(weights.sum(axes, keepdim=True)).clamp(min=1.0)
    centered = values - sum_over_learners(total) / count
    squares = centered.square() if weights is None else centered.square() * weights
    return (sum_over_learners(squares.sum(axes, keepdim=True)) / count).sqrt() + 1e-8


class ParameterlessModule:
    """For RLModules without parameters, which PyTorch cannot wrap for distributed training.

    RLlib's learner asks every torch module for the context in which gradients are not averaged.
    """

    def no_sync(self) -> AbstractContextManager[None]:
        """A context that changes nothing."""
        return nullcontext()
