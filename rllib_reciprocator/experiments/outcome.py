"""What came of an experiment: a table, and a picture of the learning curves."""

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
from rllib_reciprocator.experiments.figures import (
    PALETTE,
    collective_return,
    outcome_rates,
    returns,
    rewards_per_step,
)
from rllib_reciprocator.experiments.intervals import mean_and_half_width
from rllib_reciprocator.experiments.json_text import settings_from_json
from rllib_reciprocator.experiments.printing import print_table
from rllib_reciprocator.experiments.results import differing, parse_results, reason, short
from rllib_reciprocator.experiments.schema import Experiment
from rllib_reciprocator.experiments.stopping import StopAt, comparable_trials
from rllib_reciprocator.experiments.validation import build_config
from rllib_reciprocator.players import assign
from rllib_reciprocator.utils.ray_internals import flatten_dict

CURVES = "learning_curves.png"
# With more trials there is one summary instead of a table each.
MAX_TABLES = 3
MAX_FAILURES = 10
# Settings in the legend of a sweep's picture.
MAX_KEYS = 20
STYLES: tuple[Any, ...] = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Trial:
    """One trial's outcome.

    Attributes:
        folder: Where its files are, a path in the file system of its storage.
        storage: That file system.
        settings: Its settings, by path.
        players: Who played, by agent; empty for algorithms without players.
        results: The result of every iteration, as reported.
        checkpoint: The last checkpoint's folder, if any.
        error: What ended it, if it failed.
    """

    folder: PurePosixPath
    storage: FileSystem
    settings: dict[str, Any] = field(repr=False)
    players: dict[str, str]
    results: list[dict[str, Any]] = field(repr=False)
    checkpoint: str | None
    error: str | None


def trials_of(grid: ResultGrid, experiment: Experiment, algorithm: type[Algorithm]) -> list[Trial]:
    """The trials of an experiment that has run."""
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
    """A file's text; empty if there is no such file, as where a trial failed before it began."""
    try:
        with storage.open_input_stream(str(file)) as stream:
            return stream.read().decode()
    except FileNotFoundError:
        return ""


# Settings that say who plays.
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
    """Prints the outcome, and draws the learning curves beside the trials' folders."""
    if len(trials) > 1:
        print_table(console, summary(experiment, trials))
    for trial in trials if len(trials) <= MAX_TABLES else []:
        if not trial.results:
            continue
        last = trial.results[-1]
        iterations, seconds = last["training_iteration"], last["time_total_s"]
        what = f"{experiment.name}: {experiment.run} on {experiment.env}"
        title = f"{what}, {iterations} iterations, {seconds:.1f} s of training"
        console.print(title, style="bold", highlight=False, soft_wrap=True)
        print_table(console, _table(experiment, trial))
        console.print(f"checkpoint   {trial.checkpoint or 'none'}", highlight=False, soft_wrap=True)
        console.print(f"tensorboard  --logdir {trial.folder}", highlight=False, soft_wrap=True)
    drawn = [trial for trial in trials if len(trial.results) > 1]
    if drawn:
        picture = drawn[0].folder.parent / CURVES
        draw(experiment.name, drawn, picture)
        console.print(f"picture      {picture}", highlight=False, soft_wrap=True)
    failed = [trial for trial in trials if trial.error]
    for trial in failed[:MAX_FAILURES]:
        line = f"[red]failed[/red]       {trial.folder.name}: {escape(str(trial.error))}"
        console.print(line, highlight=False, soft_wrap=True)
        console.print(f"traceback    {trial.folder / 'error.txt'}", highlight=False, soft_wrap=True)
    if len(failed) > MAX_FAILURES:
        console.print(f"[red]failed[/red]       and {len(failed) - MAX_FAILURES} more", highlight=False)


def _table(experiment: Experiment, trial: Trial) -> Table:
    """Builds the table of a trial's last result, one row per agent.

    Where no episode ended in the last iteration it shows rewards per step instead of returns.
    """
    last = trial.results[-1]
    rates, by_agent = outcome_rates(last), returns(last)
    measure, digits = "return", 2
    if not by_agent and rewards_per_step(last):
        measure, by_agent, digits = "reward per step", rewards_per_step(last), 3
    table = Table()
    table.add_column("agent")
    table.add_column("player")
    table.add_column(measure, justify="right")
    for name in rates:
        table.add_column(name.replace("_", " "), justify="right")
    total = collective_return(last)
    if not by_agent and total is not None:
        by_agent = {"all": total}
    for agent in sorted(by_agent or {agent for by in rates.values() for agent in by}) or ["all"]:
        row = [agent, trial.players.get(agent, experiment.run), _number(by_agent.get(agent), digits)]
        table.add_row(*row, *(_number(by.get(agent), 3) for by in rates.values()))
    return table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def by_setting(trials: list[Trial]) -> dict[tuple[tuple[str, str], ...], list[Trial]]:
    """The trials of each setting: those that differ by their seeds alone are together."""
    varied = differing([trial.settings for trial in trials])
    found: dict[tuple[tuple[str, str], ...], list[Trial]] = {}
    for trial in trials:
        key = tuple((name, short(trial.settings.get(name, ""))) for name in varied)
        found.setdefault(key, []).append(trial)
    return found


def summary(experiment: Experiment, trials: list[Trial]) -> Table:
    """Builds the table of a sweep: one row per setting, with means over its trials and 95% confidence intervals.

    An outcome is the mean over agents; the collective return is the sum. Means are over the ``n`` trials of a setting
    that met the stopping criterion; if none did, over those with the most iterations (:func:`comparable_trials`). The
    row says at which iterations these ended, and how many trials failed or were stopped early.
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
    names = list(dict.fromkeys(name for row in means.values() for of_trial in row for name in of_trial))
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for key, results in rows.items():
        row = means[key]
        figures = [_interval([of_trial[name] for of_trial in row if name in of_trial], len(row)) for name in names]
        counts = [_trial_count(experiment, settings[key]), str(len(row)), _iterations(results)]
        table.add_row(*(value for _, value in key), *counts, *figures)
    return table


def _trial_count(experiment: Experiment, trials: list[Trial]) -> str:
    """Returns how many trials a setting has, and how many of them failed or were stopped early."""
    criterion = StopAt(experiment.stop)
    failed = sum(trial.error is not None for trial in trials)
    stopped = sum(
        bool(experiment.stop and trial.results) and not trial.error and not criterion.reached(trial.results[-1])
        for trial in trials
    )
    notes = [f"{count} {what}" for count, what in ((failed, "failed"), (stopped, "stopped early")) if count]
    return f"{len(trials)}" + (f" ({', '.join(notes)})" if notes else "")


def _iterations(results: list[dict[str, Any]]) -> str:
    """Returns the iterations of some results as one number or a range, for a cell."""
    numbers = sorted({int(result["training_iteration"]) for result in results})
    return "-" if not numbers else str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _means(result: dict[str, Any]) -> dict[str, float]:
    """Returns the outcomes of a result as means over agents, and the collective return.

    If no episode ended in this iteration, the collective reward per step takes the place of the collective return.
    """
    means = {name: statistics.fmean(by.values()) for name, by in outcome_rates(result).items()}
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
    """What is drawn of a result: name of the panel -> player -> value."""
    total = collective_return(result)
    by_agent = returns(result) or ({"all": total} if total is not None else {})
    drawn = {**outcome_rates(result), "return": by_agent, "reward per step": rewards_per_step(result)}
    return {name: by for name, by in drawn.items() if by}


def draw(title: str, trials: list[Trial], picture: PurePosixPath) -> None:
    """Draws outcome rates and returns over the iterations, one line per trial and agent.

    Rewards per step are drawn if there is an iteration in which no episode ended. Colours tell players apart, or in a
    sweep its settings, and dashes then the players.

    Args:
        title: Above it.
        trials: What to draw.
        picture: The PNG file, in the trials' storage.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    settings = by_setting(trials)
    sweep = len(settings) > 1
    of_results = [_figures(result) for trial in trials for result in trial.results]
    names = list(dict.fromkeys(name for figures in of_results for name in figures)) or ["return"]
    if all("return" in figures for figures in of_results):
        names = [name for name in names if name != "reward per step"]
    agents = list(dict.fromkeys(agent for figures in of_results for name in names for agent in figures.get(name, {})))
    figure = Figure(figsize=(5.2 * len(names), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for number, group in enumerate(settings.values()):
        for trial in group:
            iterations = [result["training_iteration"] for result in trial.results]
            figures = [_figures(result) for result in trial.results]
            for panel, name in zip(panels, names, strict=True):
                for index, agent in enumerate(agents):
                    values = [of_result.get(name, {}).get(agent) for of_result in figures]
                    points = [(x, y) for x, y in zip(iterations, values, strict=True) if y is not None]
                    style = {"color": _colour(number if sweep else index), "linestyle": STYLES[index % len(STYLES)]}
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
    keys = [
        Line2D(
            [], [], label=f"{agent} ({players[agent]})" if agent in players else agent,
            color="black" if sweep else _colour(index), linestyle=STYLES[index % len(STYLES)],
        )
        for index, agent in enumerate(agents)
    ]  # fmt: skip
    if sweep:
        labels = [", ".join(f"{name.rpartition('/')[2]} {value}" for name, value in key) for key in settings]
        keys += [Line2D([], [], label=label, color=_colour(number)) for number, label in enumerate(labels)][:MAX_KEYS]
        if len(labels) > MAX_KEYS:
            keys.append(Line2D([], [], label=f"and {len(labels) - MAX_KEYS} more", color="none"))
        figure.legend(handles=keys, fontsize=7, frameon=False, loc="outside right upper")
    elif keys:
        panels[0].legend(handles=keys, fontsize=8, frameon=False, loc="best")
    figure.suptitle(title, fontsize=11)
    with trials[0].storage.open_output_stream(str(picture)) as stream:
        figure.savefig(stream, dpi=130, format="png")


def _colour(number: int) -> str:
    return PALETTE[number % len(PALETTE)]
