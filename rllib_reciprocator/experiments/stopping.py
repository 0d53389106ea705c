"""Stopping criteria of trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.stopper import Stopper

from rllib_reciprocator.experiments.metrics import missing
from rllib_reciprocator.utils.ray_internals import flatten_dict


class StopAt(Stopper):
    """Stopper that ends each trial with the first result in which a metric has reached its value.

    Attributes:
        stop: Metric -> value to reach.
        problem: Error message if a metric is missing from the results, or None. All trials then end.
    """

    def __init__(self, stop: Mapping[str, float], metric: str | None = None) -> None:
        """Initializes the stopper.

        Args:
            stop: Metric -> value to reach.
            metric: Another metric that results must have, which a scheduler or searcher uses.
        """
        self.stop = dict(stop)
        self.problem: str | None = None
        self._needed = {metric: f"stop.{metric}" for metric in stop} | ({metric: f"metric: {metric}"} if metric else {})

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Returns True if a trial ends with this result."""
        for metric, key in self._needed.items():
            if self.problem is None and (problem := missing(metric, result)):
                self.problem = f"{key} {problem}"
        return self.problem is not None or self.reached(result)

    def reached(self, result: Mapping[str, Any]) -> bool:
        """Returns True if any metric of a result has reached its value."""
        metrics = flatten_dict(dict(result))
        return any(metrics.get(metric, float("nan")) >= value for metric, value in self.stop.items())

    def stop_all(self) -> bool:
        """Returns True if all trials end, because a metric is missing from the results."""
        return self.problem is not None


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
    criterion = StopAt(stop)
    last_results = {index: trial_results[-1] for index, trial_results in enumerate(results) if trial_results}
    finished_trials = [index for index, result in last_results.items() if criterion.reached(result)]
    if finished_trials or not last_results:
        return finished_trials
    max_iterations = max(result["training_iteration"] for result in last_results.values())
    return [index for index, result in last_results.items() if result["training_iteration"] == max_iterations]
