"""What came of an experiment: a table, and a picture of the learning curves."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pyarrow.fs import FileSystem
from ray._private.dict import flatten_dict
from ray.rllib.algorithms.algorithm import Algorithm
from ray.tune.result_grid import ResultGrid
from rich.console import Console
from rich.table import Table

from rllib_reciprocator.algorithms.reciprocator import ReciprocatorConfig
from rllib_reciprocator.experiments.figures import PALETTE, outcome_rates
from rllib_reciprocator.experiments.intervals import mean_and_half_width
from rllib_reciprocator.experiments.results import differing, parse_results, short
from rllib_reciprocator.experiments.schema import Experiment
from rllib_reciprocator.experiments.validation import build_config
from rllib_reciprocator.players import assign

CURVES = "learning_curves.png"
# With more trials there is one summary instead of a table each.
MOST_TABLES = 3


@dataclass(frozen=True)
class Trial:
    """One trial's outcome.

    Attributes:
        folder: Where its files are, a path in the file system of its storage.
        storage: That file system.
        settings: Its settings, by path.
        players: Who played, by seat; empty for algorithms without players.
        results: The result of every iteration, as reported.
        checkpoint: The last checkpoint's folder, if any.
        error: What ended it, if it failed.
    """

    folder: PurePosixPath
    storage: FileSystem
    settings: dict[str, Any]
    players: dict[str, str]
    results: list[dict[str, Any]]
    checkpoint: str | None
    error: str | None


def trials_of(grid: ResultGrid, experiment: Experiment, algorithm: type[Algorithm]) -> list[Trial]:
    """The trials of an experiment that has run."""
    trials = []
    for result in grid:
        folder, storage = PurePosixPath(result.path), result.filesystem
        checkpoint = result.checkpoint.path if result.checkpoint else None
        error = str(result.error).strip().splitlines()[-1] if result.error else None
        results, _ = parse_results(_text(storage, folder / "result.json"))
        settings = json.loads(_text(storage, folder / "params.json") or "{}")
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


def _players(
    experiment: Experiment, algorithm: type[Algorithm], settings: dict[str, Any], results: list[dict[str, Any]]
) -> dict[str, str]:
    players: dict[str, Any] = {key: settings[key] for key in ("players", "env_config") if key in settings}
    if not issubclass(algorithm.get_default_config().__class__, ReciprocatorConfig):
        seats = sorted(results[-1].get("env_runners", {}).get("agent_episode_returns_mean", {})) if results else []
        if "players" not in players or not seats:
            return {}
        learner = algorithm.__name__.lower()
        return {player.seat: player.name for player in assign(players["players"], seats, None, learner)}
    config = build_config(algorithm, experiment.env, players)
    return {player.seat: player.name for player in config.seated()}


def show(experiment: Experiment, trials: list[Trial], console: Console) -> None:
    """Prints the outcome, and draws the learning curves beside the trials' folders."""
    if len(trials) > 1:
        console.print(summary(experiment, trials))
    for trial in trials if len(trials) <= MOST_TABLES else []:
        if trial.error:
            console.print(f"[red]failed[/red] {trial.folder.name}: {trial.error}", highlight=False, soft_wrap=True)
        if not trial.results:
            continue
        last = trial.results[-1]
        rates = outcome_rates(last)
        returns = last.get("env_runners", {}).get("agent_episode_returns_mean", {})
        iterations, seconds = last["training_iteration"], last["time_total_s"]
        what = f"{experiment.name}: {experiment.run} on {experiment.env}"
        title = f"{what}, {iterations} iterations, {seconds:.1f} s of training"
        console.print(title, style="bold", highlight=False, soft_wrap=True)
        table = Table()
        table.add_column("seat")
        table.add_column("player")
        table.add_column("extrinsic return", justify="right")
        for name in rates:
            table.add_column(name.replace("_", " "), justify="right")
        for seat in sorted(returns) or ["all"]:
            value = returns.get(seat, last.get("env_runners", {}).get("episode_return_mean", float("nan")))
            row = [seat, trial.players.get(seat, experiment.run), f"{value:.2f}"]
            table.add_row(*row, *(f"{by.get(seat, float('nan')):.3f}" for by in rates.values()))
        console.print(table)
        console.print(f"checkpoint   {trial.checkpoint or 'none'}", highlight=False, soft_wrap=True)
        console.print(f"tensorboard  --logdir {trial.folder}", highlight=False, soft_wrap=True)
    drawn = [trial for trial in trials if len(trial.results) > 1]
    if drawn:
        picture = drawn[0].folder.parent / CURVES
        draw(experiment.name, drawn, picture)
        console.print(f"picture      {picture}", highlight=False, soft_wrap=True)


def summary(experiment: Experiment, trials: list[Trial]) -> Table:
    """A sweep as a table: a row a setting, with means over its trials and their 95% confidence intervals.

    An outcome is the mean over players; the return is that of all players together.
    """
    by_setting: dict[tuple[tuple[str, str], ...], list[Trial]] = {}
    varied = differing([trial.settings for trial in trials])
    for trial in trials:
        key = tuple((name, short(trial.settings.get(name, ""))) for name in varied)
        by_setting.setdefault(key, []).append(trial)
    table = Table(title=f"{experiment.name}: {len(trials)} trials of {len(by_setting)} settings", title_justify="left")
    for name in [*varied, "trials"]:
        table.add_column(name)
    rows = {key: [_means(trial.results[-1]) for trial in group if trial.results] for key, group in by_setting.items()}
    names = list(dict.fromkeys(name for row in rows.values() for means in row for name in means))
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for key, row in rows.items():
        failed = sum(trial.error is not None for trial in by_setting[key])
        count = f"{len(by_setting[key])}" + (f" ({failed} failed)" if failed else "")
        figures = [_interval([means[name] for means in row if name in means]) for name in names]
        table.add_row(*(value for _, value in key), count, *figures)
    return table


def _means(result: dict[str, Any]) -> dict[str, float]:
    """Outcomes of a result, each the mean over players, and the return of all."""
    means = {name: statistics.fmean(by.values()) for name, by in outcome_rates(result).items()}
    total = result.get("env_runners", {}).get("episode_return_mean")
    return {**means, "return": float(total)} if total is not None else means


def _interval(values: list[float]) -> str:
    """Mean and half-width of its confidence interval, for a cell."""
    if not values:
        return "-"
    mean, half = mean_and_half_width(values)
    return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} ± {half:.3f}"


def _figures(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What is drawn of a result: name of the panel -> player -> value."""
    metrics = result.get("env_runners", {})
    returns = metrics.get("agent_episode_returns_mean") or {"episode return": metrics.get("episode_return_mean")}
    known = {seat: returns[seat] for seat in sorted(returns) if returns[seat] is not None}
    return {**outcome_rates(result), "extrinsic return": known}


def draw(title: str, trials: list[Trial], picture: PurePosixPath) -> None:
    """Draws outcome rates and extrinsic returns of every player over the iterations, one line a trial.

    Args:
        title: Above it.
        trials: What to draw.
        picture: The PNG file, in the trials' storage.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(_figures(trials[0].results[-1]))
    figure = Figure(figsize=(5.2 * len(names), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    styles = ("-", "--", "-.", ":")
    for number, trial in enumerate(trials):
        iterations = [result["training_iteration"] for result in trial.results]
        figures = [_figures(result) for result in trial.results]
        for panel, name in zip(panels, names, strict=True):
            for index, seat in enumerate(figures[-1][name]):
                label = f"{seat} ({trial.players[seat]})" if seat in trial.players else seat
                panel.plot(
                    iterations,
                    [values.get(name, {}).get(seat, float("nan")) for values in figures],
                    styles[index % 4],
                    color=PALETTE[index % len(PALETTE)],
                    label=label if number == 0 else None,
                    linewidth=1.6,
                )
    for panel, name in zip(panels, names, strict=True):
        panel.set_title(name.replace("_", " "), fontsize=10)
        panel.set_xlabel("iteration")
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        if name.endswith(("_rate", "_share")):
            panel.set_ylim(-0.02, 1.02)
    if panels[0].get_legend_handles_labels()[1]:
        panels[0].legend(fontsize=8, frameon=False, loc="best")
    figure.suptitle(title, fontsize=11)
    with trials[0].storage.open_output_stream(str(picture)) as stream:
        figure.savefig(stream, dpi=130, format="png")
