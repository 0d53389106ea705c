"""Reports the results of an experiment as tables and as a plot of the learning curves."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pyarrow.fs import FileSystem
from ray.rllib.algorithms.algorithm import Algorithm
from ray.tune.result_grid import ResultGrid
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rllib_reciprocator.engine import BatchedAlgorithm, BatchedConfig
from rllib_reciprocator.experiments.schema import Experiment
from rllib_reciprocator.experiments.stopping import StopAt
from rllib_reciprocator.experiments.validation import build_config
from rllib_reciprocator.players import assign
from rllib_reciprocator.results.completion import comparable_trials
from rllib_reciprocator.results.intervals import mean_and_half_width
from rllib_reciprocator.results.json_text import settings_from_json
from rllib_reciprocator.results.metrics import (
    PALETTE,
    collective_return,
    outcome_rates,
    returns,
    rewards_per_step,
)
from rllib_reciprocator.results.parsing import differing, parse_results, reason, short
from rllib_reciprocator.results.printing import print_table
from rllib_reciprocator.utils.ray_internals import flatten_dict

CURVES = "learning_curves.png"
# With more trials, only the summary is printed, without a table per trial.
MAX_TABLES = 3
MAX_FAILURES = 10
# Maximum number of settings in the legend of a sweep's plot.
MAX_KEYS = 20
STYLES: tuple[Any, ...] = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Trial:
    """Results of one trial.

    Attributes:
        folder: Folder of the trial's files, a path in the file system of its storage.
        storage: File system of the trial's storage.
        settings: Settings of the trial, by path.
        players: Name of the player of each agent; empty for algorithms without players.
        results: Result of every iteration, as reported.
        checkpoint: Folder of the last checkpoint, or None.
        error: Error message if the trial failed, or None.
    """

    folder: PurePosixPath
    storage: FileSystem
    settings: dict[str, Any] = field(repr=False)
    players: dict[str, str]
    results: list[dict[str, Any]] = field(repr=False)
    checkpoint: str | None
    error: str | None


def trials_of(grid: ResultGrid, experiment: Experiment, algorithm: type[Algorithm]) -> list[Trial]:
    """Returns the trials of a finished experiment."""
    trials = []
    for result in grid:
        folder, storage = PurePosixPath(result.path), result.filesystem
        checkpoint = result.checkpoint.path if result.checkpoint else None
        lines = str(result.error).strip().splitlines() or [type(result.error).__name__]
        error = reason(lines[-1]) if result.error else None
        results, _ = parse_results(_text(storage, folder / "result.json"))
        settings = settings_from_json(_text(storage, folder / "params.json") or "{}")
        players = _players(experiment, algorithm, settings, results)
        trials.append(Trial(folder, storage, flatten_dict(settings), players, results, checkpoint, error))
    return trials


def _text(storage: FileSystem, file: PurePosixPath) -> str:
    """Returns the text of a file; empty if the file does not exist, e.g. if a trial failed before it started."""
    try:
        with storage.open_input_stream(str(file)) as stream:
            return stream.read().decode()
    except FileNotFoundError:
        return ""


# Settings that determine the players.
_WHO_PLAYS = ("players", "env_config", "learning_players", "meta", "num_envs_per_env_runner")


def _players(
    experiment: Experiment, algorithm: type[Algorithm], settings: dict[str, Any], results: list[dict[str, Any]]
) -> dict[str, str]:
    players: dict[str, Any] = {key: settings[key] for key in _WHO_PLAYS if key in settings}
    if not issubclass(algorithm, BatchedAlgorithm):
        agents = list(returns(results[-1]) or rewards_per_step(results[-1])) if results else []
        if "players" not in players or not agents:
            return {}
        learner = algorithm.__name__.lower()
        return {player.agent: player.name for player in assign(players["players"], agents, None, (learner,))}
    config = build_config(algorithm, experiment.env, players)
    assert isinstance(config, BatchedConfig)
    return {player.agent: player.name for player in config.assigned_players}


def show(experiment: Experiment, trials: list[Trial], console: Console) -> None:
    """Prints the results, and plots the learning curves to a file next to the trials' folders."""
    if len(trials) > 1:
        print_table(console, summary(experiment, trials))
    for trial in trials if len(trials) <= MAX_TABLES else []:
        if not trial.results:
            continue
        last_result = trial.results[-1]
        iterations, seconds = last_result["training_iteration"], last_result["time_total_s"]
        description = f"{experiment.name}: {experiment.run} on {experiment.env}"
        title = f"{description}, {iterations} iterations, {seconds:.1f} s of training"
        console.print(title, style="bold", highlight=False, soft_wrap=True)
        print_table(console, _table(experiment, trial))
        console.print(f"checkpoint   {trial.checkpoint or 'none'}", highlight=False, soft_wrap=True)
        console.print(f"tensorboard  --logdir {trial.folder}", highlight=False, soft_wrap=True)
    plotted_trials = [trial for trial in trials if len(trial.results) > 1]
    if plotted_trials:
        plot_file = plotted_trials[0].folder.parent / CURVES
        draw(experiment.name, plotted_trials, plot_file)
        console.print(f"plot         {plot_file}", highlight=False, soft_wrap=True)
    failures = [trial for trial in trials if trial.error]
    for trial in failures[:MAX_FAILURES]:
        line = f"[red]failed[/red]       {trial.folder.name}: {escape(str(trial.error))}"
        console.print(line, highlight=False, soft_wrap=True)
        console.print(f"traceback    {trial.folder / 'error.txt'}", highlight=False, soft_wrap=True)
    if len(failures) > MAX_FAILURES:
        console.print(f"[red]failed[/red]       and {len(failures) - MAX_FAILURES} more", highlight=False)


def _table(experiment: Experiment, trial: Trial) -> Table:
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


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def by_setting(trials: list[Trial]) -> dict[tuple[tuple[str, str], ...], list[Trial]]:
    """Groups trials by setting: trials that differ only in their seeds are in one group."""
    setting_names = differing([trial.settings for trial in trials])
    groups: dict[tuple[tuple[str, str], ...], list[Trial]] = {}
    for trial in trials:
        key = tuple((name, short(trial.settings.get(name, ""))) for name in setting_names)
        groups.setdefault(key, []).append(trial)
    return groups


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
        selected = comparable_trials([[] if trial.error else trial.results for trial in group], experiment.stop)
        rows[key] = [group[index].results[-1] for index in selected]
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


def _trial_count(experiment: Experiment, trials: list[Trial]) -> str:
    """Returns the number of trials of a setting, and how many of them failed or were stopped early, for a cell."""
    criterion = StopAt(experiment.stop)
    num_failed = sum(trial.error is not None for trial in trials)
    num_stopped = sum(
        bool(experiment.stop and trial.results) and not trial.error and not criterion.reached(trial.results[-1])
        for trial in trials
    )
    notes = [f"{count} {state}" for count, state in ((num_failed, "failed"), (num_stopped, "stopped early")) if count]
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


def _figures(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Returns the values of a result to plot: name of the panel -> agent -> value."""
    total = collective_return(result)
    by_agent = returns(result) or ({"all": total} if total is not None else {})
    panels = {**outcome_rates(result), "return": by_agent, "reward per step": rewards_per_step(result)}
    return {name: values for name, values in panels.items() if values}


def draw(title: str, trials: list[Trial], picture: PurePosixPath) -> None:
    """Plots outcome rates and returns over the iterations, one line per trial and agent.

    Rewards per step are plotted if no episode ended in some iteration. Colors distinguish agents. In a sweep, colors
    distinguish settings, and line styles distinguish agents.

    Args:
        title: Title of the plot.
        trials: The trials to plot.
        picture: The PNG file, in the trials' storage.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    settings = by_setting(trials)
    sweep = len(settings) > 1
    all_metrics = [_figures(result) for trial in trials for result in trial.results]
    names = list(dict.fromkeys(name for metrics in all_metrics for name in metrics)) or ["return"]
    if all("return" in metrics for metrics in all_metrics):
        names = [name for name in names if name != "reward per step"]
    agents = list(dict.fromkeys(agent for metrics in all_metrics for name in names for agent in metrics.get(name, {})))
    figure = Figure(figsize=(5.2 * len(names), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for setting_index, group in enumerate(settings.values()):
        for trial in group:
            iterations = [result["training_iteration"] for result in trial.results]
            trial_metrics = [_figures(result) for result in trial.results]
            for panel, name in zip(panels, names, strict=True):
                for index, agent in enumerate(agents):
                    values = [metrics.get(name, {}).get(agent) for metrics in trial_metrics]
                    points = [(x, y) for x, y in zip(iterations, values, strict=True) if y is not None]
                    style = {
                        "color": _colour(setting_index if sweep else index),
                        "linestyle": STYLES[index % len(STYLES)],
                    }
                    if len(points) == 1:
                        style["marker"] = "o"
                    panel.plot([x for x, _ in points], [y for _, y in points], linewidth=1.6, **style)
    for panel, name in zip(panels, names, strict=True):
        panel.set_title(name.replace("_", " "), fontsize=10)
        panel.set_xlabel("iteration")
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        if name.endswith(("_rate", "_share")):
            panel.set_ylim(-0.02, 1.02)
    players = trials[0].players
    handles = [
        Line2D(
            [], [], label=f"{agent} ({players[agent]})" if agent in players else agent,
            color="black" if sweep else _colour(index), linestyle=STYLES[index % len(STYLES)],
        )
        for index, agent in enumerate(agents)
    ]  # fmt: skip
    if sweep:
        labels = [", ".join(f"{name.rpartition('/')[2]} {value}" for name, value in key) for key in settings]
        handles += [Line2D([], [], label=label, color=_colour(index)) for index, label in enumerate(labels)][:MAX_KEYS]
        if len(labels) > MAX_KEYS:
            handles.append(Line2D([], [], label=f"and {len(labels) - MAX_KEYS} more", color="none"))
        figure.legend(handles=handles, fontsize=7, frameon=False, loc="outside right upper")
    elif handles:
        panels[0].legend(handles=handles, fontsize=8, frameon=False, loc="best")
    figure.suptitle(title, fontsize=11)
    with trials[0].storage.open_output_stream(str(picture)) as stream:
        figure.savefig(stream, dpi=130, format="png")


def _colour(number: int) -> str:
    return PALETTE[number % len(PALETTE)]
