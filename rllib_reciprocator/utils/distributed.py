"""Statistics over all learner processes, and support for modules without parameters in distributed training."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def sum_over_learners(values: Tensor) -> Tensor:
    """Returns the elementwise sum of ``values`` over all learner processes; ``values`` itself with one learner."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    total = values.clone()
    torch.distributed.all_reduce(total)
    return total


def mean_over_learners(values: Tensor) -> Tensor:
    """Returns the elementwise mean of ``values`` over all learner processes; ``values`` itself with one learner."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    return sum_over_learners(values) / torch.distributed.get_world_size()


def all_reduce_max(count: int, device: torch.device | str = "cpu") -> int:
    """Returns the maximum of ``count`` over all learner processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return count
    maximum = torch.tensor(count, device=device)
    torch.distributed.all_reduce(maximum, op=torch.distributed.ReduceOp.MAX)
    return int(maximum)


def rank_of_learner() -> int:
    """Returns the rank of this learner process, counted from 0."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0
    return torch.distributed.get_rank()


def standardized(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Standardizes values by their mean and standard deviation over all learners.

    Constant values become zero.

    Args:
        values: Values of any shape.
        mask: True for values that are included in mean and standard deviation, of the same shape. If None, all values.
    """
    weights = torch.ones_like(values) if mask is None else mask.to(values.dtype)
    moments = torch.stack([(values * weights).sum(), weights.sum()])
    total, count = sum_over_learners(moments)
    count = count.clamp(min=1.0)
    centered_values = values - total / count
    variance = sum_over_learners((centered_values.square() * weights).sum()) / count
    return centered_values / (variance.sqrt() + 1e-8)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the mean of the values ``[rows]`` where a mask ``[rows]`` is True; zero if it is False everywhere."""
    if mask is None:
        return values.mean()
    weights = mask.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1.0)


def mean_of_counted(values: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the sum of the masked values divided by the mean number of masked values per learner.

    The gradient, averaged over learners, then equals the gradient of the mean over the rows of all learners,
    independently of how the masked rows are distributed among learners.

    Args:
        values: Values, ``[rows]``.
        mask: True for rows that are included, ``[rows]`` bool. If None, all rows.
    """
    if mask is None:
        return values.mean()
    weights = mask.to(values.dtype)
    return (values * weights).sum() / mean_over_learners(weights.sum()).clamp(min=1.0)


def deviation(values: Tensor, axes: tuple[int, ...], mask: Tensor | None = None) -> Tensor:
    """Returns the standard deviation over some axes and all learners, plus a small constant.

    Args:
        values: Values of any shape.
        axes: The reduced axes, which are kept with length 1.
        mask: True for values that are included, bool of the same shape. If None, all values.
    """
    weights = None if mask is None else mask.to(values.dtype)
    total = (values if weights is None else values * weights).sum(axes, keepdim=True)
    if weights is None:
        count = sum_over_learners(torch.full((), values.numel() / total.numel(), device=values.device)).clamp(min=1.0)
    else:
        count = sum_over_learners(weights.sum(axes, keepdim=True)).clamp(min=1.0)
    centered_values = values - sum_over_learners(total) / count
    squares = centered_values.square() if weights is None else centered_values.square() * weights
    return (sum_over_learners(squares.sum(axes, keepdim=True)) / count).sqrt() + 1e-8


def averaged_over_learners(gradients: list[Tensor], count: float) -> float:
    """Sums gradients over all learner processes, in place.

    Args:
        gradients: Gradients of a sum over ``count`` terms.
        count: Number of terms on this learner.

    Returns:
        Number of terms on all learners.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return float(count)
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), gradients[0].new_tensor([count])])
    *sums, total_count = sum_over_learners(flat).split([*(gradient.numel() for gradient in gradients), 1])
    for gradient, gradient_sum in zip(gradients, sums, strict=True):
        gradient.copy_(gradient_sum.view_as(gradient))
    return float(total_count)


class ParameterlessModule:
    """Mixin for RLModules without parameters, which PyTorch cannot wrap for distributed training.

    RLlib's learner calls ``no_sync()`` of every torch module, which is a method of wrapped modules only.
    """

    def no_sync(self) -> AbstractContextManager[None]:
        """Returns a context manager without effect."""
        return nullcontext()
