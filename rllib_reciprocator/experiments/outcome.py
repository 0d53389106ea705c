"""Reports the results of an experiment as tables and as a plot of the learning curves."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from pyarrow.fs import FileSystem
from ray.rllib.algorithms.algorithm import Algorithm
from ray.tune.result_grid import ResultGrid
from rich.console import Console
from rich.markup import escape

from rllib_reciprocator.engine import BatchedAlgorithm, BatchedConfig, assign
from rllib_reciprocator.experiments.schema import Experiment
from rllib_reciprocator.experiments.validation import build_config
from rllib_reciprocator.intrinsic.reciprocity.settings import RECIPROCATOR
from rllib_reciprocator.results.json_text import settings_from_json
from rllib_reciprocator.results.learning_curves import draw
from rllib_reciprocator.results.metrics import (
    returns,
    rewards_per_step,
)
from rllib_reciprocator.results.parsing import parse_results, reason
from rllib_reciprocator.results.printing import print_table
from rllib_reciprocator.results.tables import summary, trial_table
from rllib_reciprocator.results.trials import Trial
from rllib_reciprocator.rllib_episodes.modules import episode_player_kinds
from rllib_reciprocator.utils.ray_internals import flatten_dict

CURVES = "learning_curves.png"
# With more trials, only the summary is printed, without a table per trial.
MAX_TABLES = 3
MAX_FAILURES = 10


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
        kinds = episode_player_kinds(algorithm.__name__.lower())
        assignment = assign(players["players"], agents, None, kinds, RECIPROCATOR)
        return {player.agent: player.name for player in assignment}
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
        print_table(console, trial_table(experiment, trial))
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
