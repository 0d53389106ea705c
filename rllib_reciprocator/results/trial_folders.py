"""Reading of run folders that Ray Tune has written: trials with their settings, results and checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from rllib_reciprocator.results.completion import comparable_trials
from rllib_reciprocator.results.json_text import settings_from_json
from rllib_reciprocator.results.metrics import iterate_metrics
from rllib_reciprocator.results.parsing import differing, parse_results, reason, short
from rllib_reciprocator.utils.checkpoints import find_checkpoint, newest_trials
from rllib_reciprocator.utils.errors import UserError, user_path
from rllib_reciprocator.utils.ray_internals import flatten_dict

RESULTS, SETTINGS = "result.json", "params.json"
# File in the folder of an experiment with the settings of the run.
DESCRIPTION = "experiment.json"


@dataclass
class TrialFolder:
    """Contents of the folder of a trial.

    Attributes:
        folder: Path of the folder.
        settings: Settings of the trial, flattened, by path.
        results: Results of the trial, one per iteration.
        problems: Messages on parts of the folder that could not be read.
        stop: Stopping criterion of the trial, metric -> value to reach. Empty if the run's description has none.
    """

    folder: Path
    settings: dict[str, Any] = field(repr=False)
    results: list[dict[str, Any]] = field(repr=False)
    problems: list[str] = field(default_factory=list)
    stop: dict[str, float] = field(default_factory=dict, repr=False)

    @property
    def algorithm(self) -> str:
        """Returns the name of the trial's algorithm."""
        return self.folder.name.split("_")[0]

    @property
    def checkpoint(self) -> Path | None:
        """Returns the last checkpoint of the trial, or None if there is none."""
        try:
            return find_checkpoint(self.folder)
        except ValueError:
            return None

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Returns the metrics of the trial, one row per iteration and value.

        The columns are ``iteration``, ``steps``, ``seconds``, ``metric``, ``subject`` and ``value``. The column
        ``subject`` is an agent or an ordered pair, and empty for metrics of all agents together.
        """
        return pd.DataFrame(
            [
                (
                    result["training_iteration"],
                    result.get("num_env_steps_sampled_lifetime") or 0,
                    result.get("time_total_s", 0.0),
                    name,
                    agent_or_pair,
                    value,
                )
                for result in self.results
                for name, agent_or_pair, value in iterate_metrics(result)
            ],
            columns=["iteration", "steps", "seconds", "metric", "subject", "value"],
        )


@dataclass
class Group:
    """Group of trials that differ only in their seeds.

    Attributes:
        name: Name of the run, and the settings that distinguish these trials from others.
        settings: Settings of the trials, by path, without the seed.
        trials: The trials.
    """

    name: str
    settings: dict[str, Any] = field(repr=False)
    trials: list[TrialFolder]

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Returns the metrics of all trials, with the index of the trial in the column ``trial``."""
        parts = [trial.metrics.assign(trial=number) for number, trial in enumerate(self.trials)]
        return pd.concat(parts, ignore_index=True)

    @property
    def comparable(self) -> list[TrialFolder]:
        """Returns the trials whose last results may be averaged; see :func:`comparable_trials`."""
        indices = comparable_trials([trial.results for trial in self.trials], self.trials[0].stop)
        return [self.trials[index] for index in indices]


def read_groups(folders: Sequence[str | Path]) -> list[Group]:
    """Reads the trials in run folders and groups those with the same settings.

    Args:
        folders: Folders of experiments or of single trials.

    Returns:
        The groups, in the order in which they were found.

    Raises:
        UserError: If a folder contains no run, or no trial in it can be read.
    """
    groups: dict[tuple[str, str], Group] = {}
    for path in folders:
        folder = user_path(str(path), "run").resolve()
        for trial in _trials(folder):
            settings = {name: value for name, value in trial.settings.items() if name != "seed"}
            key = (str(folder), json.dumps(settings, sort_keys=True, default=str))
            if key not in groups:
                name = folder.name if trial.folder != folder else folder.parent.name
                groups[key] = Group(name, {"run": trial.algorithm, **settings}, [])
            groups[key].trials.append(trial)
    _name_apart(list(groups.values()))
    return list(groups.values())


def _trials(folder: Path) -> list[TrialFolder]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    files = (
        [folder / RESULTS]
        if (folder / RESULTS).is_file()
        else [trial / RESULTS for trial in newest_trials(folder) if (trial / RESULTS).is_file()]
    )
    if not files:
        raise UserError(f"{folder}: contains no run (there is no {RESULTS} in it or one level below)")
    if len(files) == 1:
        return [_trial(files[0])]
    trials, problems = [], []
    for file in files:
        try:
            trials.append(_trial(file))
        except UserError as error:
            problems.append(f"{error}; the trial was left out")
    if not trials:
        raise UserError(f"{folder}: none of the {len(files)} trials has a result ({problems[0]})")
    trials[0].problems += problems
    return trials


def _trial(file: Path) -> TrialFolder:
    """Reads the folder of a trial, given its result file."""
    results, broken_lines = _results(file)
    settings_file = file.parent / SETTINGS
    try:
        settings = settings_from_json(settings_file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{settings_file}: cannot be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{settings_file}: is not valid JSON ({error})") from None
    problems = [f"{file}: line {number} is not a complete result and was left out" for number in broken_lines]
    return TrialFolder(file.parent, flatten_dict(settings), results, problems, _stop(file.parent.parent / DESCRIPTION))


def _stop(file: Path) -> dict[str, float]:
    """Reads the stopping criterion in a run's description. It is empty if the description cannot be read."""
    try:
        stop = json.loads(file.read_text(encoding="utf-8"))["stop"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return stop if isinstance(stop, dict) else {}


def _results(file: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Reads the results in a file, and the numbers of the lines that are not complete results."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    results, broken_lines = parse_results(text)
    if not results:
        raise UserError(f"{file}: {'contains no complete result' if text else _why_empty(file.parent)}")
    return results, broken_lines


def _why_empty(trial: Path) -> str:
    """Describes why a trial has no results: it failed, or its first iteration has not ended."""
    try:
        lines = (trial / "error.txt").read_text(encoding="utf-8").strip().splitlines()
    except OSError:
        lines = []
    return f"is empty; the trial failed ({reason(lines[-1])})" if lines else "is empty; no iteration has ended yet"


def _name_apart(groups: list[Group]) -> None:
    """Gives the groups of one run different names, by the settings in which they differ.

    If there is only one run, the names consist of these settings alone.
    """
    one_run = len({group.name for group in groups}) == 1
    for name in {group.name for group in groups}:
        run_groups = [group for group in groups if group.name == name]
        keys = differing([group.settings for group in run_groups])
        if len(run_groups) > 1:
            for number, group in enumerate(run_groups, 1):
                label = ", ".join(f"{key.rpartition('/')[2]} {short(group.settings.get(key, '-'))}" for key in keys)
                group.name = label if label and one_run else f"{name}: {label}" if label else f"{name} ({number})"
