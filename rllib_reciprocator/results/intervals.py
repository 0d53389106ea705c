"""Confidence intervals of means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def mean_and_half_width(values: ArrayLike) -> tuple[float, float]:
    """Returns the mean of independent samples and the half-width of its 95% confidence interval (Student's t).

    Args:
        values: Independent samples, ``[n]``.

    Returns:
        Mean and half-width. The half-width is NaN for a single sample.
    """
    from scipy.stats import t

    values = np.asarray(values, np.float64)
    count = len(values)
    if count < 2:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(t.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count))


def stratified_mean_and_half_width(strata: Sequence[ArrayLike], weights: Sequence[float]) -> tuple[float, float]:
    """Returns the weighted mean of the stratum means and the half-width of its 95% confidence interval.

    The degrees of freedom of Student's t distribution follow the Welch-Satterthwaite equation.

    Args:
        strata: Independent samples of each stratum.
        weights: Weight of each stratum. The weights sum to 1.

    Returns:
        Mean and half-width. The half-width is NaN if a stratum has a single sample.
    """
    from scipy.stats import t

    values = [np.asarray(stratum, np.float64) for stratum in strata]
    mean = sum(weight * stratum.mean() for weight, stratum in zip(weights, values, strict=True))
    if min(map(len, values)) < 2:
        return float(mean), float("nan")
    freedom = np.array([len(stratum) - 1 for stratum in values])
    variances = np.array([w**2 * x.var(ddof=1) / len(x) for w, x in zip(weights, values, strict=True)])
    if not variances.sum() > 0.0:
        return float(mean), float(variances.sum())
    degrees = variances.sum() ** 2 / (variances**2 / freedom).sum()
    return float(mean), float(t.ppf(0.975, degrees) * np.sqrt(variances.sum()))


def mean_with_interval(values: ArrayLike) -> dict[str, float]:
    """Returns the mean and the half-width of its 95% confidence interval as ``{mean, ci95}``."""
    mean, half = mean_and_half_width(values)
    return {"mean": mean, "ci95": half}
