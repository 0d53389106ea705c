"""Stopping criteria of trials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.tune.stopper import Stopper

from rllib_reciprocator.results.completion import has_reached
from rllib_reciprocator.results.metric_checks import missing


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
        return has_reached(result, self.stop)

    def stop_all(self) -> bool:
        """Returns True if all trials end, because a metric is missing from the results."""
        return self.problem is not None
