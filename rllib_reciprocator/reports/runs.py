"""Runs as Ray Tune leaves them in folders: trials, their settings, results and checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from rllib_reciprocator.experiments.errors import UserError, user_path
from rllib_reciprocator.experiments.figures import figures
from rllib_reciprocator.experiments.json_text import settings_from_json
from rllib_reciprocator.experiments.results import differing, parse_results, reason, short
from rllib_reciprocator.experiments.resuming import DESCRIPTION
from rllib_reciprocator.experiments.stopping import comparable_trials
from rllib_reciprocator.utils.checkpoints import find_checkpoint, newest_trials
from rllib_reciprocator.utils.ray_internals import flatten_dict

RESULTS, SETTINGS = "result.json", "params.json"


@dataclass
class TrialFolder:
    """A trial's folder.

    Attributes:
        folder: Its path.
        settings: What it was run with, by path.
        results: What it reported, a result an iteration.
        problems: What could not be read of it.
        stop: Its stopping criterion, metric -> value to reach; empty if the run does not have it written down.
    """

    folder: Path
    settings: dict[str, Any] = field(repr=False)
    results: list[dict[str, Any]] = field(repr=False)
    problems: list[str] = field(default_factory=list)
    stop: dict[str, float] = field(default_factory=dict, repr=False)

    @property
    def algorithm(self) -> str:
        """The name of its algorithm."""
        return self.folder.name.split("_")[0]

    @property
    def checkpoint(self) -> Path | None:
        """Its last checkpoint."""
        try:
            return find_checkpoint(self.folder)
        except ValueError:
            return None

    @cached_property
    def figures(self) -> pd.DataFrame:
        """What there is to draw: a row each with ``iteration``, ``steps``, ``seconds``, ``figure``, ``of``, ``value``.

        ``of`` is an agent, an ordered pair, or empty where the figure is of all together.
        """
        return pd.DataFrame(
            [
                (
                    result["training_iteration"],
                    result.get("num_env_steps_sampled_lifetime") or 0,
                    result.get("time_total_s", 0.0),
                    name,
                    of,
                    value,
                )
                for result in self.results
                for name, of, value in figures(result)
            ],
            columns=["iteration", "steps", "seconds", "figure", "of", "value"],
        )


@dataclass
class Group:
    """Trials with the same settings but for the seed.

    Attributes:
        name: The run, and what is particular to these trials.
        settings: Their settings, by path, without the seed.
        trials: The trials.
    """

    name: str
    settings: dict[str, Any] = field(repr=False)
    trials: list[TrialFolder]

    @cached_property
    def figures(self) -> pd.DataFrame:
        """What there is to draw of all trials, with their number as ``trial``."""
        parts = [trial.figures.assign(trial=number) for number, trial in enumerate(self.trials)]
        return pd.concat(parts, ignore_index=True)

    @property
    def comparable(self) -> list[TrialFolder]:
        """The trials whose last results may be averaged; see :func:`comparable_trials`."""
        selected = comparable_trials([trial.results for trial in self.trials], self.trials[0].stop)
        return [self.trials[index] for index in selected]


def read_groups(folders: Sequence[str | Path]) -> list[Group]:
    """The trials in run folders, those of the same settings together.

    Args:
        folders: Each an experiment's folder, or a single trial's.

    Raises:
        UserError: If there is no run in a folder, or nothing in a file of it can be read.
    """
    groups: dict[tuple[str, str], Group] = {}
    for written in folders:
        folder = user_path(str(written), "run").resolve()
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
        raise UserError(f"{folder}: there is no run in it (no {RESULTS} here or one folder below)")
    if len(files) == 1:
        return [_trial(files[0])]
    trials, problems = [], []
    for file in files:
        try:
            trials.append(_trial(file))
        except UserError as error:
            problems.append(f"{error}; the trial was left out")
    if not trials:
        raise UserError(f"{folder}: none of its {len(files)} trials has a result ({problems[0]})")
    trials[0].problems += problems
    return trials


def _trial(file: Path) -> TrialFolder:
    """A trial's folder, from its file of results."""
    results, broken = _results(file)
    settings = file.parent / SETTINGS
    try:
        loaded = settings_from_json(settings.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{settings}: cannot be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{settings}: is not whole ({error})") from None
    problems = [f"{file}: line {number} is not whole and was left out" for number in broken]
    return TrialFolder(file.parent, flatten_dict(loaded), results, problems, _stop(file.parent.parent / DESCRIPTION))


def _stop(file: Path) -> dict[str, float]:
    """Returns the stopping criterion of a run from its description; empty if there is none that can be read."""
    try:
        stop = json.loads(file.read_text(encoding="utf-8"))["stop"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return stop if isinstance(stop, dict) else {}


def _results(file: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The results in a file, and the lines that are broken."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    results, broken = parse_results(text)
    if not results:
        raise UserError(f"{file}: {'none of its lines is whole' if text else _why_empty(file.parent)}")
    return results, broken


def _why_empty(trial: Path) -> str:
    """Why a trial has no results: because it failed, or because its first iteration has not ended."""
    try:
        lines = (trial / "error.txt").read_text(encoding="utf-8").strip().splitlines()
    except OSError:
        lines = []
    return f"is empty; the trial failed ({reason(lines[-1])})" if lines else "is empty; no iteration has ended yet"


def _name_apart(groups: list[Group]) -> None:
    """Adds to the names of groups of one run what is particular to them; alone it says enough in a single run."""
    one_run = len({group.name for group in groups}) == 1
    for name in {group.name for group in groups}:
        alike = [group for group in groups if group.name == name]
        names = differing([group.settings for group in alike])
        if len(alike) > 1:
            for number, group in enumerate(alike, 1):
                own = ", ".join(f"{each.rpartition('/')[2]} {short(group.settings.get(each, '-'))}" for each in names)
                group.name = own if own and one_run else f"{name}: {own}" if own else f"{name} ({number})"
