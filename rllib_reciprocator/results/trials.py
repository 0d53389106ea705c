"""Trials of a finished experiment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pyarrow.fs import FileSystem

from rllib_reciprocator.results.parsing import differing, short


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


def by_setting(trials: list[Trial]) -> dict[tuple[tuple[str, str], ...], list[Trial]]:
    """Groups trials by setting: trials that differ only in their seeds are in one group."""
    setting_names = differing([trial.settings for trial in trials])
    groups: dict[tuple[tuple[str, str], ...], list[Trial]] = {}
    for trial in trials:
        key = tuple((name, short(trial.settings.get(name, ""))) for name in setting_names)
        groups.setdefault(key, []).append(trial)
    return groups
