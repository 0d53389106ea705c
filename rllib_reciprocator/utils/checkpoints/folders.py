"""Folders of checkpoints and their files."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from social_dilemmas.registry import did_you_mean

logger = logging.getLogger(__name__)

MODULE_PATH = Path("learner_group", "learner", "rl_module")
METADATA = "rllib_checkpoint.json"


def find_checkpoint(folder: Path) -> Path:
    """Returns a checkpoint's folder: the given folder itself, or the last checkpoint of the run in it.

    Args:
        folder: Folder of a checkpoint, of a trial, or of an experiment with one trial. If the experiment was run
            several times under its name, the newest run is used.

    Raises:
        ValueError: If there is no checkpoint, or several trials have one.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such checkpoint")
    if _is_checkpoint(folder):
        return folder
    candidates = [_last(trial) for trial in (folder, *newest_trials(folder))]
    checkpoints = [checkpoint for checkpoint in candidates if checkpoint]
    if len(checkpoints) > 1:
        trials = [checkpoint.parent.name for checkpoint in checkpoints]
        names = ", ".join(trials[:4]) + (", .." if len(trials) > 4 else "")
        raise ValueError(f"{folder}: has the checkpoints of {len(checkpoints)} trials; give one of {names}")
    if not checkpoints:
        raise ValueError(f"{folder}: not an Algorithm checkpoint (it has no {METADATA}), nor a run with one")
    return checkpoints[0]


def newest_trials(folder: Path) -> list[Path]:
    """Returns the trial folders of an experiment; of the last run if it was run several times under its name."""
    trials = sorted(path for path in folder.iterdir() if path.is_dir())
    states = sorted(folder.glob("experiment_state-*.json"))
    if len(states) < 2:
        return trials
    try:
        trial_data = [
            json.loads(trial) for trial, _ in json.loads(states[-1].read_text(encoding="utf-8"))["trial_data"]
        ]
        logdirs = {trial["relative_logdir"] for trial in trial_data}
    except (OSError, ValueError, LookupError, TypeError):
        return trials
    newest = [trial for trial in trials if trial.name in logdirs]
    # A resumed run has several states of the same trials; only folders of other trials show that there was another run.
    if not newest or not any((trial / "params.json").is_file() for trial in trials if trial not in newest):
        return trials
    date = states[-1].stem.removeprefix("experiment_state-").replace("_", " ")
    logger.warning("%s: was run %d times; the newest run, of %s, is used", folder, len(states), date)
    return newest


def _is_checkpoint(folder: Path) -> bool:
    """Returns True if a folder is a checkpoint of an RLlib algorithm, judged by its metadata without unpickling."""
    try:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(metadata, dict) and "ray_version" in metadata and (folder / MODULE_PATH).is_dir()


def _last(trial: Path) -> Path | None:
    """Returns the last complete checkpoint of a trial; None if there is none."""
    checkpoints = (path for path in trial.glob("checkpoint_*") if _is_checkpoint(path))
    return max(checkpoints, default=None, key=lambda path: path.name)


def module_in(checkpoint: Path, name: str) -> Path:
    """Returns the folder of a module in a checkpoint.

    Raises:
        ValueError: If the checkpoint has no module of this name.
    """
    folder = checkpoint / MODULE_PATH / name
    if folder.parent != checkpoint / MODULE_PATH or not folder.is_dir():
        names = [path.name for path in (checkpoint / MODULE_PATH).iterdir() if path.is_dir()]
        raise ValueError(f"{checkpoint} has no player {name!r}{did_you_mean(name, names)}")
    return folder


def all_files(folder: Path) -> Iterator[Path]:
    """Yields all files in a folder and its subfolders. Links are followed, because RLlib follows them."""
    visited_folders = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(name)
        if real in visited_folders:  # links may form cycles
            folders.clear()
            continue
        visited_folders.add(real)
        folders.sort()
        yield from (Path(name) / file for file in sorted(files))
