"""Results that meet stopping criteria, and trials that may be averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rllib_reciprocator.utils.ray_internals import flatten_dict


def has_reached(result: Mapping[str, Any], stop: Mapping[str, float]) -> bool:
    """Returns True if any metric of a result has reached its value.

    Args:
        result: A result, as reported.
        stop: Metric -> value to reach.
    """
    metrics = flatten_dict(dict(result))
    return any(metrics.get(metric, float("nan")) >= value for metric, value in stop.items())


def comparable_trials(results: Sequence[Sequence[Mapping[str, Any]]], stop: Mapping[str, float]) -> list[int]:
    """Selects the trials of one setting whose last results may be averaged.

    These are the trials that met the stopping criterion. A trial that a scheduler stopped earlier, or that failed, is
    left out. If no trial met the criterion, the trials with the most iterations are selected.

    Args:
        results: The results of each trial, one per iteration; a trial without results is never selected.
        stop: Metric -> value to reach.

    Returns:
        Indices of the selected trials.
    """
    last_results = {index: trial_results[-1] for index, trial_results in enumerate(results) if trial_results}
    finished_trials = [index for index, result in last_results.items() if has_reached(result, stop)]
    if finished_trials or not last_results:
        return finished_trials
    max_iterations = max(result["training_iteration"] for result in last_results.values())
    return [index for index, result in last_results.items() if result["training_iteration"] == max_iterations]
