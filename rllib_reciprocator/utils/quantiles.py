"""Quantiles that summarize distributions in metrics."""

from __future__ import annotations

import torch
from torch import Tensor

QUANTILES = "quantiles"
# Number of evenly spaced quantiles, and maximum number of values from which they are computed.
_NUM_QUANTILES, _MOST_VALUES = 33, 2048


def quantiles(values: Tensor) -> list[list[float]]:
    """Returns evenly spaced quantiles of each column of ``[rows, columns]``, from minimum to maximum."""
    # The stride is rounded up, so that at most _MOST_VALUES rows remain.
    subsample = values[:: -(-len(values) // _MOST_VALUES)].float()
    return subsample.quantile(torch.linspace(0.0, 1.0, _NUM_QUANTILES, device=values.device), 0).t().tolist()
