"""Distributions told by a few numbers."""

from __future__ import annotations

import torch
from torch import Tensor

QUANTILES = "quantiles"
# A distribution is told by so many evenly spaced quantiles, of so many of its values at most.
_NUM_QUANTILES, _MOST_VALUES = 33, 2048


def quantiles(values: Tensor) -> list[list[float]]:
    """Evenly spaced quantiles of each column of ``[rows, columns]``, from the smallest to the largest value."""
    some = values[:: -(-len(values) // _MOST_VALUES)].float()
    return some.quantile(torch.linspace(0.0, 1.0, _NUM_QUANTILES, device=values.device), 0).t().tolist()
