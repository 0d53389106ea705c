"""Shows the progress of trials while they run."""

from __future__ import annotations

from typing import Any

from ray.tune.callback import Callback
from ray.tune.experiment import Trial
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from rllib_reciprocator.results.metrics import collective_return, outcome_rates, returns, rewards_per_step

LINES_WITHOUT_TERMINAL = 20
LONGEST_TAG = 60


def brief(result: dict[str, Any]) -> str:
    """Formats the main metrics of a result as one line."""
    parts = [
        f"{name} " + " ".join(f"{value:.3f}" for value in rate.values()) for name, rate in outcome_rates(result).items()
    ]
    mean = collective_return(result)
    if mean is not None:
        parts.append(f"{'return' if len(returns(result)) == 1 else 'collective return'} {mean:.1f}")
    elif per_step := rewards_per_step(result):
        parts.append("reward per step " + " ".join(f"{value:.3f}" for value in per_step.values()))
    return "  ".join(parts)


class ProgressCallback(Callback):
    """Callback that shows a progress bar per trial in a terminal, and prints about 20 lines per trial elsewhere.

    Tune pickles its callbacks, so the progress bars are created only when the experiment starts.
    """

    def __init__(self, name: str, iterations: float | None) -> None:
        """Initializes the callback.

        Args:
            name: Name of the experiment.
            iterations: Iteration at which trials stop, or None if it is not known.
        """
        self.name = name
        self.iterations = int(iterations) if iterations else None
        self._progress: Progress | None = None
        self._bars: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state without the progress bars, which are not pickled."""
        return {**self.__dict__, "_progress": None, "_bars": {}}

    def setup(
        self, stop: object = None, num_samples: int | None = None, total_num_samples: int | None = None, **info: object
    ) -> None:
        """Starts the display."""
        console = Console(stderr=True)
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                # This column takes the rest of the line, so a narrow terminal truncates only the metrics.
                TextColumn("{task.fields[metrics]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
                console=console,
                expand=True,
            )
            self._progress.start()
        self._console = console

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: object
    ) -> None:
        """Shows the latest metrics of a trial."""
        num_iterations = result["training_iteration"]
        # Searchers put all settings into the tag, which can be too long for a line.
        tag = trial.experiment_tag if len(trial.experiment_tag) <= LONGEST_TAG else trial.trial_id
        label = self.name if len(trials) == 1 else f"{self.name} {tag}"
        if self._progress is not None:
            if trial.trial_id not in self._bars:
                self._bars[trial.trial_id] = self._progress.add_task(label, total=self.iterations, metrics="")
            self._progress.update(self._bars[trial.trial_id], completed=num_iterations, metrics=brief(result))
        elif (
            num_iterations == 1
            or num_iterations == self.iterations
            or num_iterations % max(1, (self.iterations or 1000) // LINES_WITHOUT_TERMINAL) == 0
        ):
            seconds = result.get("time_total_s", 0.0)
            self._console.print(
                f"{label}  iteration {num_iterations}  {seconds:.0f} s  {brief(result)}",
                highlight=False,
                soft_wrap=True,
            )

    def on_experiment_end(self, trials: list[Trial], **info: object) -> None:
        """Stops the display."""
        if self._progress is not None:
            self._progress.stop()
