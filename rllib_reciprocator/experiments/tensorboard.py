"""Results for TensorBoard, under names that one can find."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.logger import TBXLoggerCallback
from ray.tune.result import TIMESTEPS_TOTAL, TRAINING_ITERATION

from rllib_reciprocator.experiments.figures import (
    BY_PAIR,
    COLLECTIVE_RETURN,
    LOSSES,
    NOT_OUTCOMES,
    OF_INCENTIVES,
    RECIPROCAL_REWARD,
    RETURN,
    SOCIAL,
    distributions,
    figures,
)
from rllib_reciprocator.utils.ray_internals import flatten_dict

# What is said of the trial itself, and not of what it learned.
_BOOKKEEPING = ("config", "timestamp", "date", "pid", "hostname", "node_ip", "trial_id", "done", "perf")


class TensorBoardLogger(TBXLoggerCallback):
    """Writes each figure as ``FIGURE/AGENT``, histograms of influence and reciprocal rewards, and a layout.

    Everything else that RLlib reports is under ``rllib/``. The layout (TensorBoard's "custom scalars") has a chart for
    each figure, with all agents or ordered pairs in it.
    """

    def __init__(self) -> None:
        """Has drawn no layout yet."""
        super().__init__()
        self._laid_out: set[Trial] = set()

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Writes one result."""
        if trial not in self._trial_writer:
            self.log_trial_start(trial)
        writer, step = self._trial_writer[trial], result.get(TIMESTEPS_TOTAL) or result[TRAINING_ITERATION]
        shown = list(figures(result))
        # RLlib reports no number for what nothing was logged of.
        for name, of, value in (each for each in shown if np.isfinite(each[2])):
            writer.add_scalar(f"{name}/{of or 'all'}", value, global_step=step)
        for name, of, quantiles in distributions(result):
            told = np.array(quantiles)
            if np.isfinite(told).all():
                writer.add_histogram(f"{name}/{of}", told, global_step=step, bins=30)
        rest = {name: value for name, value in result.items() if name not in _BOOKKEEPING}
        scalars = {
            f"rllib/{name}": value
            for name, value in flatten_dict(rest, delimiter="/").items()
            if isinstance(value, int | float | np.integer | np.floating) and np.isfinite(value)
        }
        for tag, scalar in scalars.items():
            writer.add_scalar(tag, scalar, global_step=step)
        if trial not in self._laid_out:
            self._laid_out.add(trial)
            writer.add_custom_scalars(_layout([name for name, _, _ in shown]))
        self._trial_result[trial] = {name: value for name, of, value in shown if not of}
        writer.flush()


def _layout(names: list[str]) -> dict[str, dict[str, list[Any]]]:
    """A chart for each figure, by what it is about."""
    there = list(dict.fromkeys(names))
    parts = {
        "cooperation": [name for name in there if name not in NOT_OUTCOMES or name in SOCIAL],
        "returns": [name for name in there if name in (RETURN, COLLECTIVE_RETURN)],
        "influence": [n for n in there if n in (*BY_PAIR, RECIPROCAL_REWARD)],
        "incentives": [name for name in there if name in OF_INCENTIVES],
        "learning": [name for name in there if name in LOSSES],
    }
    return {part: {name: ["Multiline", [f"^{name}/.*"]] for name in charts} for part, charts in parts.items() if charts}
