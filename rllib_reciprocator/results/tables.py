"""Tables of the last results of one trial and of all trials of a sweep."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

from rich.table import Table

from rllib_reciprocator.results.completion import comparable_trials, has_reached
from rllib_reciprocator.results.intervals import mean_and_half_width
from rllib_reciprocator.results.metrics import collective_return, outcome_rates, returns, rewards_per_step
from rllib_reciprocator.results.trials import Trial, by_setting

if TYPE_CHECKING:
    from rllib_reciprocator.experiments.schema import Experiment


def trial_table(experiment: Experiment, trial: Trial) -> Table:
    """Builds the table of a trial's last result, one row per agent.

    If no episode ended in the last iteration, the table shows rewards per step instead of returns.
    """
    last_result = trial.results[-1]
    rates, by_agent = outcome_rates(last_result), returns(last_result)
    measure, digits = "return", 2
    if not by_agent and rewards_per_step(last_result):
        measure, by_agent, digits = "reward per step", rewards_per_step(last_result), 3
    table = Table()
    table.add_column("agent")
    table.add_column("player")
    table.add_column(measure, justify="right")
    for name in rates:
        table.add_column(name.replace("_", " "), justify="right")
    total = collective_return(last_result)
    if not by_agent and total is not None:
        by_agent = {"all": total}
    for agent in sorted(by_agent or {agent for rate in rates.values() for agent in rate}) or ["all"]:
        row = [agent, trial.players.get(agent, experiment.run), _number(by_agent.get(agent), digits)]
        table.add_row(*row, *(_number(rate.get(agent), 3) for rate in rates.values()))
    return table


def summary(experiment: Experiment, trials: list[Trial]) -> Table:
    """Builds the table of a sweep: one row per setting, with means over its trials and 95% confidence intervals.

    An outcome is the mean over agents; the collective return is the sum. Means are over the ``n`` trials of a setting
    that met the stopping criterion. If no trial met it, means are over the trials with the most iterations
    (:func:`comparable_trials`). The row shows the iterations at which these trials ended, and how many trials failed or
    were stopped early.
    """
    settings = by_setting(trials)
    table = Table(title=f"{experiment.name}: {len(trials)} trials of {len(settings)} settings", title_justify="left")
    for name in [*(name for name, _ in next(iter(settings), ())), "trials", "n", "iterations"]:
        table.add_column(name)
    rows = {}
    for key, group in settings.items():
        indices = comparable_trials([[] if trial.error else trial.results for trial in group], experiment.stop)
        rows[key] = [group[index].results[-1] for index in indices]
    means = {key: [_means(result) for result in results] for key, results in rows.items()}
    names = list(dict.fromkeys(name for row in means.values() for trial_means in row for name in trial_means))
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for key, results in rows.items():
        row = means[key]
        cells = [
            _interval([trial_means[name] for trial_means in row if name in trial_means], len(row)) for name in names
        ]
        counts = [_trial_count(experiment, settings[key]), str(len(row)), _iterations(results)]
        table.add_row(*(value for _, value in key), *counts, *cells)
    return table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _trial_count(experiment: Experiment, trials: list[Trial]) -> str:
    """Returns the number of trials of a setting, and how many of them failed or were stopped early, for a cell."""
    num_failures = sum(trial.error is not None for trial in trials)
    num_stops = sum(
        bool(experiment.stop and trial.results)
        and not trial.error
        and not has_reached(trial.results[-1], experiment.stop)
        for trial in trials
    )
    notes = [f"{count} {state}" for count, state in ((num_failures, "failed"), (num_stops, "stopped early")) if count]
    return f"{len(trials)}" + (f" ({', '.join(notes)})" if notes else "")


def _iterations(results: list[dict[str, Any]]) -> str:
    """Returns the iterations of several results as one number or a range, for a cell."""
    numbers = sorted({int(result["training_iteration"]) for result in results})
    return "-" if not numbers else str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _means(result: dict[str, Any]) -> dict[str, float]:
    """Returns the outcomes of a result as means over agents, and the collective return.

    If no episode ended in this iteration, the collective reward per step is returned instead of the collective return.
    """
    means = {name: statistics.fmean(rate.values()) for name, rate in outcome_rates(result).items()}
    total, prefix = collective_return(result), "" if len(rewards_per_step(result)) == 1 else "collective "
    if total is not None:
        return {**means, f"{prefix}return": total}
    per_step = rewards_per_step(result)
    return {**means, f"{prefix}reward per step": math.fsum(per_step.values())} if per_step else means


def _interval(values: list[float], count: int) -> str:
    """Formats the mean and the half-width of its confidence interval for a cell of a row with ``count`` trials."""
    if not values:
        return "-"
    mean, half = mean_and_half_width(values)
    text = f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} ± {half:.3f}"
    return text if len(values) == count else f"{text} (n {len(values)})"
