"""What came of an experiment: a table, and a picture of the learning curves."""

from __future__ import annotations

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

from rllib_reciprocator.batched import BatchedAlgorithm, BatchedConfig
from rllib_reciprocator.experiments.figures import PALETTE, outcome_rates
from rllib_reciprocator.experiments.intervals import mean_and_half_width
from rllib_reciprocator.experiments.json_text import settings_from_json
from rllib_reciprocator.experiments.printing import print_table
from rllib_reciprocator.experiments.results import differing, parse_results, reason, short
from rllib_reciprocator.experiments.schema import Experiment
from rllib_reciprocator.experiments.validation import build_config
from rllib_reciprocator.players import assign
from rllib_reciprocator.ray_internals import flatten_dict

CURVES = "learning_curves.png"
# With more trials there is one summary instead of a table each.
MOST_TABLES = 3
MOST_FAILURES = 10
# Settings in the legend of a sweep's picture.
MOST_KEYS = 20
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
        agents = sorted(results[-1].get("env_runners", {}).get("agent_episode_returns_mean", {})) if results else []
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
    for trial in trials if len(trials) <= MOST_TABLES else []:
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
    for trial in failed[:MOST_FAILURES]:
        line = f"[red]failed[/red]       {trial.folder.name}: {escape(str(trial.error))}"
        console.print(line, highlight=False, soft_wrap=True)
        console.print(f"traceback    {trial.folder / 'error.txt'}", highlight=False, soft_wrap=True)
    if len(failed) > MOST_FAILURES:
        console.print(f"[red]failed[/red]       and {len(failed) - MOST_FAILURES} more", highlight=False)


def _table(experiment: Experiment, trial: Trial) -> Table:
    """The last result of a trial, a row an agent."""
    last = trial.results[-1]
    rates, sampled = outcome_rates(last), last.get("env_runners", {})
    returns = sampled.get("agent_episode_returns_mean", {})
    table = Table()
    table.add_column("agent")
    table.add_column("player")
    table.add_column("extrinsic return", justify="right")
    for name in rates:
        table.add_column(name.replace("_", " "), justify="right")
    for agent in sorted(returns) or ["all"]:
        value = returns.get(agent, sampled.get("episode_return_mean", float("nan")))
        row = [agent, trial.players.get(agent, experiment.run), f"{value:.2f}"]
        table.add_row(*row, *(f"{by.get(agent, float('nan')):.3f}" for by in rates.values()))
    return table


def by_setting(trials: list[Trial]) -> dict[tuple[tuple[str, str], ...], list[Trial]]:
    """The trials of each setting: those that differ by their seeds alone are together."""
    varied = differing([trial.settings for trial in trials])
    found: dict[tuple[tuple[str, str], ...], list[Trial]] = {}
    for trial in trials:
        key = tuple((name, short(trial.settings.get(name, ""))) for name in varied)
        found.setdefault(key, []).append(trial)
    return found


def summary(experiment: Experiment, trials: list[Trial]) -> Table:
    """A sweep as a table: a row a setting, with means over its trials and their 95% confidence intervals.

    An outcome is the mean over players; the return is that of all players together. Trials that failed count in
    neither; a row says how many.
    """
    settings = by_setting(trials)
    table = Table(title=f"{experiment.name}: {len(trials)} trials of {len(settings)} settings", title_justify="left")
    for name in [*(name for name, _ in next(iter(settings), ())), "trials"]:
        table.add_column(name)
    rows = {
        key: [_means(trial.results[-1]) for trial in group if trial.results and not trial.error]
        for key, group in settings.items()
    }
    names = list(dict.fromkeys(name for row in rows.values() for means in row for name in means))
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for key, row in rows.items():
        failed = sum(trial.error is not None for trial in settings[key])
        count = f"{len(settings[key])}" + (f" ({failed} failed)" if failed else "")
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
    known = {agent: returns[agent] for agent in sorted(returns) if returns[agent] is not None}
    return {**outcome_rates(result), "extrinsic return": known}


def draw(title: str, trials: list[Trial], picture: PurePosixPath) -> None:
    """Draws outcome rates and extrinsic returns over the iterations, one line a trial and player.

    Colours tell players apart, or in a sweep its settings, and dashes then the players.

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
    names = list(dict.fromkeys(name for trial in trials for name in _figures(trial.results[-1])))
    agents = list(dict.fromkeys(s for t in trials for by in _figures(t.results[-1]).values() for s in by))
    figure = Figure(figsize=(5.2 * len(names), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for number, group in enumerate(settings.values()):
        for trial in group:
            iterations = [result["training_iteration"] for result in trial.results]
            figures = [_figures(result) for result in trial.results]
            for panel, name in zip(panels, names, strict=True):
                for index, agent in enumerate(agents):
                    values = [each.get(name, {}).get(agent, float("nan")) for each in figures]
                    style = {"color": _colour(number if sweep else index), "linestyle": STYLES[index % len(STYLES)]}
                    panel.plot(iterations, values, linewidth=1.6, **style)
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
        keys += [Line2D([], [], label=label, color=_colour(number)) for number, label in enumerate(labels)][:MOST_KEYS]
        if len(labels) > MOST_KEYS:
            keys.append(Line2D([], [], label=f"and {len(labels) - MOST_KEYS} more", color="none"))
        figure.legend(handles=keys, fontsize=7, frameon=False, loc="outside right upper")
    elif keys:
        panels[0].legend(handles=keys, fontsize=8, frameon=False, loc="best")
    figure.suptitle(title, fontsize=11)
    with trials[0].storage.open_output_stream(str(picture)) as stream:
        figure.savefig(stream, dpi=130, format="png")


def _colour(number: int) -> str:
    return PALETTE[number % len(PALETTE)]
