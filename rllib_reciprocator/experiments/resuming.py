"""Resumes a run that was interrupted, or whose stopping criteria have changed."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pyarrow.fs import FileSelector, FileSystem, FileType
from ray import cloudpickle, tune

from rllib_reciprocator.experiments.schema import Experiment
from rllib_reciprocator.experiments.stopping import StopAt
from rllib_reciprocator.results.trial_folders import DESCRIPTION
from rllib_reciprocator.utils.errors import UserError
from rllib_reciprocator.utils.ray_internals import flatten_dict

logger = logging.getLogger(__name__)

TUNER = "tuner.pkl"
# Settings that may change when a run is resumed: its location and its stopping criteria.
_MAY_CHANGE = ("name", "storage_path", "stop")


def describe(experiment: Experiment, folder: str) -> None:
    """Saves the settings of an experiment, which are compared when the run is resumed.

    Args:
        experiment: The experiment.
        folder: Folder of the experiment, a path or a URI.
    """
    storage, path = FileSystem.from_uri(folder)
    storage.create_dir(path, recursive=True)
    _write(storage, f"{path}/{DESCRIPTION}", experiment.model_dump_json(indent=1).encode())


def check_resumable(experiment: Experiment, folder: str) -> bool:
    """Checks that a run exists and has the same settings as the experiment.

    Returns:
        True if the run had started. False if it was killed before it saved any state, so that it has to start.

    Raises:
        UserError: If there is no run, it cannot be read, or its settings differ. The message names these settings.
    """
    try:
        can_restore = tune.Tuner.can_restore(folder)
    except Exception as error:  # e.g. a storage that cannot be reached
        raise UserError(f"--resume: {folder} cannot be read ({error})") from None
    if not can_restore:
        raise UserError(f"--resume: {folder} has no experiment to continue")
    previous_settings = _description(folder)
    if previous_settings is None:
        logger.warning(
            "--resume: %s is from a version that did not save its settings; they are used without a check", folder
        )
        return _newest_state(folder) is not None
    differences = _differences(previous_settings, json.loads(experiment.model_dump_json()))
    if differences:
        raise UserError(
            f"--resume: {folder} was run with other settings: {'; '.join(differences)}. Only stop may change; use"
            " another --experiment-name for a new run"
        )
    has_started = _newest_state(folder) is not None
    if has_started:
        _check_whole(folder)
    else:
        logger.warning("--resume: %s had not started; it starts now", folder)
    return has_started


def _check_whole(folder: str) -> None:
    """Checks that Tune's files of a run are complete.

    Raises:
        UserError: If a file is incomplete, e.g. because the disk was full or the run was killed during the write.
    """
    storage, path = FileSystem.from_uri(folder)
    state_file = _newest_state(folder)
    for file in (f"{path}/{TUNER}", state_file):
        assert file is not None
        content = _read(storage, file)
        try:
            if file == state_file:
                json.loads(content)
            elif not content.endswith(pickle.STOP):
                raise ValueError("truncated pickle")
        except ValueError:
            raise UserError(
                f"--resume: {file} is incomplete: the disk was full or the run was killed while it was being written;"
                " start a new run with --restore and the last checkpoint"
            ) from None


def _description(folder: str) -> dict[str, Any] | None:
    storage, path = FileSystem.from_uri(folder)
    file = f"{path}/{DESCRIPTION}"
    if storage.get_file_info(file).type == FileType.NotFound:
        return None
    try:
        # Validated by the model, which adds the defaults of keys that are newer than the file.
        return json.loads(Experiment.model_validate_json(_read(storage, file)).model_dump_json())
    except ValueError as error:
        raise UserError(f"--resume: {folder}/{DESCRIPTION} cannot be read ({error})") from None


def _differences(previous_settings: Mapping[str, Any], current_settings: Mapping[str, Any]) -> list[str]:
    """Returns the settings that differ, each in the form ``config.lr (0.01, now 0.02)``."""
    flat = [
        flatten_dict({key: value for key, value in settings.items() if key not in _MAY_CHANGE}, delimiter=".")
        for settings in (previous_settings, current_settings)
    ]
    names = [name for name in dict.fromkeys([*flat[0], *flat[1]]) if flat[0].get(name) != flat[1].get(name)]
    return [f"{name} ({flat[0].get(name)}, now {flat[1].get(name)})" for name in names]


def prepare(folder: str, stop: StopAt, callbacks: list[Any]) -> None:
    """Edits the state that Tune saved of a run, so that the run continues until ``stop``.

    Trials that have reached ``stop`` are marked as terminated. Trials that have only reached the previous criteria
    continue from their last checkpoints. If a trial fails while its checkpoint is written, Tune keeps its decision to
    stop the trial and would terminate it at the next checkpoint as if it were done. Such decisions are discarded.

    Args:
        folder: The experiment's folder.
        stop: Stopping criteria of the trials.
        callbacks: Callbacks of the resumed run, which replace the previous ones.

    Raises:
        UserError: If Tune's files are incomplete, or if a finished trial has to continue but has no checkpoint.
    """
    _check_whole(folder)
    storage, path = FileSystem.from_uri(folder)
    tuner = cloudpickle.loads(_read(storage, f"{path}/{TUNER}"))
    state_file = _newest_state(folder)
    assert state_file is not None
    state = json.loads(_read(storage, state_file))
    description = _description(folder) or {}
    former = StopAt(description.get("stop", {}))
    state["trial_data"] = [
        [json.dumps(_until(json.loads(trial), json.loads(progress), former, stop, storage, path)), progress]
        for trial, progress in state["trial_data"]
    ]
    state["runner_data"]["_cached_trial_decisions"] = {}
    state["runner_data"].pop("_stopper", None)
    tuner["_run_config"].stop, tuner["_run_config"].callbacks = stop, callbacks
    _write(storage, state_file, json.dumps(state).encode())
    _write(storage, f"{path}/{TUNER}", cloudpickle.dumps(tuner))


def _until(
    trial: dict[str, Any], progress: Mapping[str, Any], former: StopAt, stop: StopAt, storage: FileSystem, path: str
) -> dict[str, Any]:
    """Returns the state of a trial with the status that follows from ``stop``."""
    last_result = progress.get("last_result") or {}
    ended_by = trial.get("stopping_criterion") or former.stop
    status = trial["status"]
    if stop.reached(last_result):
        status = "TERMINATED"
    elif status == "TERMINATED" and StopAt(ended_by).reached(last_result):
        trial_folder = PurePosixPath(path) / trial["relative_logdir"]
        files = storage.get_file_info(FileSelector(str(trial_folder), allow_not_found=True))
        if not any(file.base_name.startswith("checkpoint_") for file in files):
            raise UserError(f"--resume: {trial['relative_logdir']} is done and has no checkpoint to continue from")
        status = "PENDING"
    return {**trial, "status": status, "stopping_criterion": {}}


def _newest_state(folder: str) -> str | None:
    """Returns the newest file in which Tune saved the trials of a run; None if there is none yet."""
    storage, path = FileSystem.from_uri(folder)
    names = [file.base_name for file in storage.get_file_info(FileSelector(path))]
    states = [name for name in names if name.startswith("experiment_state-") and name.endswith(".json")]
    return f"{path}/{max(states)}" if states else None


def _read(storage: FileSystem, file: str) -> bytes:
    with storage.open_input_stream(file) as stream:
        return stream.read()


def _write(storage: FileSystem, file: str, content: bytes) -> None:
    """Writes a file through a temporary file, so that it is never incomplete, even if this process is killed."""
    with storage.open_output_stream(f"{file}.part") as stream:
        stream.write(content)
    storage.move(f"{file}.part", file)
