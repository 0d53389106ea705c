"""When trials end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.stopper import Stopper

from rllib_reciprocator.experiments.metrics import missing
from rllib_reciprocator.utils.ray_internals import flatten_dict


class StopAt(Stopper):
    """Ends each trial with the first result in which a figure has reached its value.

    Attributes:
        stop: Figure -> value to reach.
        problem: What is wrong with a figure that turned out to be missing from the results; all trials then end.
    """

    def __init__(self, stop: Mapping[str, float], metric: str | None = None) -> None:
        """Notes when to stop.

        Args:
            stop: Figure -> value to reach.
            metric: Another figure that results must have: what a scheduler or searcher goes by.
        """
        self.stop = dict(stop)
        self.problem: str | None = None
        self._needed = {metric: f"stop.{metric}" for metric in stop} | ({metric: f"metric: {metric}"} if metric else {})

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial ends with this result."""
        for metric, key in self._needed.items():
            if self.problem is None and (problem := missing(metric, result)):
                self.problem = f"{key} {problem}"
        return self.problem is not None or self.reached(result)

    def reached(self, result: Mapping[str, Any]) -> bool:
        """Whether any figure of a result has reached its value."""
        figures = flatten_dict(dict(result))
        return any(figures.get(metric, float("nan")) >= value for metric, value in self.stop.items())

    def stop_all(self) -> bool:
        """Whether all trials end."""
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
    last = {index: of_trial[-1] for index, of_trial in enumerate(results) if of_trial}
    finished = [index for index, result in last.items() if criterion.reached(result)]
    if finished or not last:
        return finished
    longest = max(result["training_iteration"] for result in last.values())
    return [index for index, result in last.items() if result["training_iteration"] == longest]
