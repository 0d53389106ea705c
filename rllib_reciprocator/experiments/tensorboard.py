"""Logs results to TensorBoard, under short names."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.logger import TBXLoggerCallback
from ray.tune.result import TIMESTEPS_TOTAL, TRAINING_ITERATION

from rllib_reciprocator.results.metrics import (
    BY_PAIR,
    COLLECTIVE_RETURN,
    LOSSES,
    NOT_OUTCOMES,
    OF_INCENTIVES,
    RECIPROCAL_REWARD,
    RETURN,
    SOCIAL,
    distributions,
    iterate_metrics,
)
from rllib_reciprocator.utils.ray_internals import flatten_dict

# Keys of a result that describe the trial itself, not its training.
_BOOKKEEPING = ("config", "timestamp", "date", "pid", "hostname", "node_ip", "trial_id", "done", "perf")


class TensorBoardLogger(TBXLoggerCallback):
    """Logger that writes each metric as ``METRIC/AGENT``, histograms of influence and reciprocal rewards, and a layout.

    All scalars that RLlib reports are under ``rllib/``. The layout (TensorBoard's "custom scalars") has one chart per
    metric, with all agents or ordered pairs.
    """

    def __init__(self) -> None:
        """Initializes the logger."""
        super().__init__()
        self._laid_out: set[Trial] = set()

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Writes a result."""
        if trial not in self._trial_writer:
            self.log_trial_start(trial)
        writer, step = self._trial_writer[trial], result.get(TIMESTEPS_TOTAL) or result[TRAINING_ITERATION]
        metrics = list(iterate_metrics(result))
        # RLlib reports NaN for a metric without a new value.
        for name, subject, value in (metric for metric in metrics if np.isfinite(metric[2])):
            writer.add_scalar(f"{name}/{subject or 'all'}", value, global_step=step)
        for name, subject, quantiles in distributions(result):
            values = np.array(quantiles)
            if np.isfinite(values).all():
                writer.add_histogram(f"{name}/{subject}", values, global_step=step, bins=30)
        rllib_metrics = {name: value for name, value in result.items() if name not in _BOOKKEEPING}
        scalars = {
            f"rllib/{name}": value
            for name, value in flatten_dict(rllib_metrics, delimiter="/").items()
            if isinstance(value, int | float | np.integer | np.floating) and np.isfinite(value)
        }
        for tag, scalar in scalars.items():
            writer.add_scalar(tag, scalar, global_step=step)
        if trial not in self._laid_out:
            self._laid_out.add(trial)
            writer.add_custom_scalars(_layout([name for name, _, _ in metrics]))
        self._trial_result[trial] = {name: value for name, subject, value in metrics if not subject}
        writer.flush()


def _layout(names: list[str]) -> dict[str, dict[str, list[Any]]]:
    """Returns the layout of TensorBoard's custom scalars: a chart for each metric, grouped by topic."""
    metric_names = list(dict.fromkeys(names))
    parts = {
        "cooperation": [name for name in metric_names if name not in NOT_OUTCOMES or name in SOCIAL],
        "returns": [name for name in metric_names if name in (RETURN, COLLECTIVE_RETURN)],
        "influence": [name for name in metric_names if name in (*BY_PAIR, RECIPROCAL_REWARD)],
        "incentives": [name for name in metric_names if name in OF_INCENTIVES],
        "learning": [name for name in metric_names if name in LOSSES],
    }
    return {part: {name: ["Multiline", [f"^{name}/.*"]] for name in charts} for part, charts in parts.items() if charts}
