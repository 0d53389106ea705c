"""Goes on with a run that was interrupted, or that is to last longer or shorter than it was meant to."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pyarrow.fs import FileSelector, FileSystem, FileType
from ray import cloudpickle, tune

from rllib_reciprocator.experiments.errors import UserError
from rllib_reciprocator.experiments.schema import Experiment
from rllib_reciprocator.experiments.stopping import StopAt
from rllib_reciprocator.utils.ray_internals import flatten_dict

logger = logging.getLogger(__name__)

# In an experiment's folder: what was run.
DESCRIPTION = "experiment.json"
TUNER = "tuner.pkl"
# What may be different when a run goes on; where it is, and until when it runs.
_MAY_CHANGE = ("name", "storage_path", "stop")


def describe(experiment: Experiment, folder: str) -> None:
    """Writes down what is run, for whoever goes on with it.

    Args:
        experiment: The experiment.
        folder: Its folder, a path or a URI.
    """
    storage, path = FileSystem.from_uri(folder)
    storage.create_dir(path, recursive=True)
    _write(storage, f"{path}/{DESCRIPTION}", experiment.model_dump_json(indent=1).encode())


def check_resumable(experiment: Experiment, folder: str) -> bool:
    """Checks that there is a run, and that it is one of the same settings.

    Returns:
        Whether it had begun. One that was killed before left nothing to go on from, and starts.

    Raises:
        UserError: If not; the message names the settings that differ.
    """
    try:
        there = tune.Tuner.can_restore(folder)
    except Exception as error:  # a storage that cannot be reached
        raise UserError(f"--resume: {folder} cannot be read ({error})") from None
    if not there:
        raise UserError(f"--resume: {folder} has no experiment to continue")
    before = _description(folder)
    if before is None:
        logger.warning(
            "--resume: %s is of a version that did not write its settings down; they are taken as they were", folder
        )
        return _newest_state(folder) is not None
    differing = _differences(before, json.loads(experiment.model_dump_json()))
    if differing:
        raise UserError(
            f"--resume: {folder} was run with other settings: {'; '.join(differing)}. Only stop may change; give"
            " another --experiment-name for a new run"
        )
    begun = _newest_state(folder) is not None
    if begun:
        _check_whole(folder)
    else:
        logger.warning("--resume: %s had not begun; it starts", folder)
    return begun


def _check_whole(folder: str) -> None:
    """Checks that Tune's own files of a run were written to their ends.

    Raises:
        UserError: If one was not, as where the disk was full or the run was killed meanwhile.
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
                raise ValueError("a pickle without its end")
        except ValueError:
            raise UserError(
                f"--resume: {file} is not whole: the disk was full, or the run was killed, while it was being written;"
                " start another run with --restore and the last checkpoint"
            ) from None


def _description(folder: str) -> dict[str, Any] | None:
    storage, path = FileSystem.from_uri(folder)
    file = f"{path}/{DESCRIPTION}"
    if storage.get_file_info(file).type == FileType.NotFound:
        return None
    try:
        # Through the model, for the defaults of keys that came later.
        return json.loads(Experiment.model_validate_json(_read(storage, file)).model_dump_json())
    except ValueError as error:
        raise UserError(f"--resume: {folder}/{DESCRIPTION} cannot be read ({error})") from None


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, as ``config.lr (0.01, now 0.02)``."""
    flat = [
        flatten_dict({key: value for key, value in each.items() if key not in _MAY_CHANGE}, delimiter=".")
        for each in (before, now)
    ]
    names = [name for name in dict.fromkeys([*flat[0], *flat[1]]) if flat[0].get(name) != flat[1].get(name)]
    return [f"{name} ({flat[0].get(name)}, now {flat[1].get(name)})" for name in names]


def prepare(folder: str, stop: StopAt, callbacks: list[Any]) -> None:
    """Changes what Tune kept of a run, so that it goes on until ``stop``.

    Trials that have reached it are done; those that had reached the former one alone go on from their last
    checkpoints. Tune keeps the decision to stop of a trial that failed while its checkpoint was written, and would end
    it with its next checkpoint as if it were done: such decisions are forgotten.

    Args:
        folder: The experiment's folder.
        stop: When trials end.
        callbacks: Of the run, in the place of those it had.

    Raises:
        UserError: If Tune's files are not whole, or a trial that is done is to go on, but has no checkpoint.
    """
    _check_whole(folder)
    storage, path = FileSystem.from_uri(folder)
    tuner = cloudpickle.loads(_read(storage, f"{path}/{TUNER}"))
    state_file = _newest_state(folder)
    assert state_file is not None
    state = json.loads(_read(storage, state_file))
    described = _description(folder) or {}
    former = StopAt(described.get("stop", {}))
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
    """A trial's state, with its status as ``stop`` has it."""
    last = progress.get("last_result") or {}
    ended_by = trial.get("stopping_criterion") or former.stop
    status = trial["status"]
    if stop.reached(last):
        status = "TERMINATED"
    elif status == "TERMINATED" and StopAt(ended_by).reached(last):
        own = PurePosixPath(path) / trial["relative_logdir"]
        files = storage.get_file_info(FileSelector(str(own), allow_not_found=True))
        if not any(each.base_name.startswith("checkpoint_") for each in files):
            raise UserError(f"--resume: {trial['relative_logdir']} is done and has no checkpoint to go on from")
        status = "PENDING"
    return {**trial, "status": status, "stopping_criterion": {}}


def _newest_state(folder: str) -> str | None:
    """The newest of the files in which Tune keeps the trials of a run, if there is one yet."""
    storage, path = FileSystem.from_uri(folder)
    names = [each.base_name for each in storage.get_file_info(FileSelector(path))]
    states = [name for name in names if name.startswith("experiment_state-") and name.endswith(".json")]
    return f"{path}/{max(states)}" if states else None


def _read(storage: FileSystem, file: str) -> bytes:
    with storage.open_input_stream(file) as stream:
        return stream.read()


def _write(storage: FileSystem, file: str, content: bytes) -> None:
    """Writes a file that is there as a whole or not at all, whenever this process may be killed."""
    with storage.open_output_stream(f"{file}.part") as stream:
        stream.write(content)
    storage.move(f"{file}.part", file)
