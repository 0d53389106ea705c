"""When trials end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.tune.stopper import Stopper

from rllib_reciprocator.experiments.metrics import missing
from rllib_reciprocator.ray_internals import flatten_dict


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
