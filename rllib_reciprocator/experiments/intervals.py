"""Confidence intervals of means."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def mean_and_half_width(values: ArrayLike) -> tuple[float, float]:
    """The mean of independent values and the half-width of its 95% confidence interval, after Student.

    Args:
        values: ``[n]``.

    Returns:
        Both; NaN for the half-width of a single value.
    """
    from scipy.stats import t

    values = np.asarray(values, np.float64)
    count = len(values)
    if count < 2:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(t.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count))


def mean_with_interval(values: ArrayLike) -> dict[str, float]:
    """The same as ``{mean, ci95}``."""
    mean, half = mean_and_half_width(values)
    return {"mean": mean, "ci95": half}
