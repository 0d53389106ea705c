"""Functions that find, check and read RLlib checkpoints on disk.

Checkpoints consist of pickles, and unpickling a file can run any code. A pickle is therefore read only if it needs no
other names than those on the lists of :mod:`rllib_reciprocator.utils.restricted_pickle`; ``--trust`` disables this
check.
"""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import re
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from packaging.version import Version
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.annotations import override
from ray.rllib.utils.checkpoints import Checkpointable

from rllib_reciprocator.utils.restricted_pickle import (
    NOT_LISTED,
    OPTION,
    ConstructorUnpickler,
    StandIn,
    WeightsUnpickler,
    check_attribute,
)
from social_dilemmas.registry import did_you_mean

logger = logging.getLogger(__name__)

MODULE_PATH = Path("learner_group", "learner", "rl_module")
METADATA = "rllib_checkpoint.json"
# Environment variable that disables the check of pickles if it is 1. It is not a setting, so that Ray's workers inherit
# it.
TRUST = "RLLIB_RECIPROCATOR_TRUST_CHECKPOINTS"

# Key in METADATA of the version of this package that wrote the checkpoint.
VERSION = "rllib_reciprocator_version"
_PACKAGES = ("rllib_reciprocator", "social_dilemmas")
# Settings of the form MODULE:NAME, or module/MODULE:CLASS for players, import the module when they are used, whatever
# is after the colon. Any file on Python's path can be imported by its name.
_MODULE, _DEVICE = re.compile(r"[^/\s]+"), re.compile(r"(cpu|cuda|mps|xpu):\d+")
_PETTINGZOO = "pettingzoo/"


def is_trusted() -> bool:
    """Returns True if the check of pickles is disabled."""
    return os.environ.get(TRUST) == "1"


def unpickle(file: Path) -> Any:
    """Returns the content of a pickle of weights, optimizer states or counters; of any pickle if they are trusted.

    Args:
        file: Path of the pickle.

    Raises:
        ValueError: If the file cannot be read or contains anything else.
    """
    return _unpickle(file, WeightsUnpickler)[0]


def _unpickle(file: Path, reader_class: type[WeightsUnpickler]) -> tuple[Any, WeightsUnpickler]:
    """Returns the content of a pickle and the unpickler that read it."""
    try:
        content = file.read_bytes()
        reader = reader_class(io.BytesIO(content))
        return (pickle.loads(content) if is_trusted() else reader.load()), reader
    except Exception as error:  # a broken pickle may raise anything
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{file}: cannot be read ({reason[0]})") from None


def read_constructor(folder: Path) -> tuple[type, tuple, dict[str, Any]]:
    """Returns the class of a checkpointed component and its constructor arguments.

    Ray modifies the classes of its actors, so that RLlib's checkpoints contain the code of these classes. This code is
    not run; the class is imported by its name.

    Args:
        folder: The component's folder in a checkpoint.

    Returns:
        Class, positional arguments and keyword arguments.

    Raises:
        ValueError: If the file cannot be read, or needs a name that is not on the list.
    """
    file = folder / Checkpointable.CLASS_AND_CTOR_ARGS_FILE_NAME
    content, reader = _unpickle(file, ConstructorUnpickler)
    values = _walk(content)
    if type(content) is dict and isinstance(cls := content.get(_CLASS), StandIn) and (name := cls.class_by_value()):
        content = {**content, _CLASS: ConstructorUnpickler(io.BytesIO()).find_class(*name)}
        values = _walk(content)
    elif isinstance(reader, ConstructorUnpickler):
        values = chain(values, reader.stand_ins)
    for value in values if not is_trusted() else ():
        if isinstance(value, StandIn):
            raise ValueError(f"{file}: cannot be read (it {value}, {NOT_LISTED})")
        if isinstance(value, str) and (module := _module_to_import(value)):
            raise ValueError(f"{file}: cannot be read (it imports {module}, as {value!r}, {NOT_LISTED})")
    return _parts(content, file)


_CLASS = "class"


def _parts(content: Any, file: Path) -> tuple[Any, tuple, dict[str, Any]]:
    """Returns class, arguments and keyword arguments from the content of a component's file.

    Raises:
        ValueError: If the content does not have the form that RLlib writes.
    """
    try:
        cls, (args, kwargs) = content[_CLASS], content["ctor_args_and_kwargs"]
        if isinstance(cls, type | StandIn) and isinstance(args, tuple) and isinstance(kwargs, dict):
            return cls, args, kwargs
    except (LookupError, TypeError, ValueError):
        pass
    raise ValueError(f"{file}: is not in the format of RLlib's checkpoints")


def _module_to_import(value: str) -> str | None:
    """Returns the module that a setting refers to if importing it would run code from outside this package."""
    name = value.removeprefix("module/")
    if _DEVICE.fullmatch(name):
        return None
    for module, colon, rest in (name.partition(":"), name.rpartition(":")):
        if colon and not rest.startswith("//") and _MODULE.fullmatch(module) and not _is_harmless(module):
            return module
    return None


def _is_harmless(module: str) -> bool:
    """Returns True if importing a module runs no foreign code: it is in this package or has been imported already."""
    return module.partition(".")[0] in _PACKAGES or module in sys.modules


def read_config(checkpoint: Path) -> AlgorithmConfig:
    """Returns the config with which a checkpoint was made.

    Raises:
        ValueError: If its file cannot be read.
    """
    algorithm, args, _ = read_constructor(checkpoint)
    try:
        (state,) = args
        if not issubclass(algorithm, Algorithm):
            raise TypeError(f"{algorithm.__qualname__} is not an algorithm")
        if not is_trusted():
            _check_config(state)
        return algorithm.get_default_config().from_state(state)  # type: ignore[attr-defined]
    except Exception as error:  # settings of other versions may raise anything
        raise ValueError(f"{checkpoint}: its settings cannot be read ({error})") from None


def _check_config(state: dict[str, Any]) -> None:
    """Checks the attributes of a config that RLlib calls or imports; the classes of all values have been checked.

    Raises:
        TypeError: If the class, ``env`` or ``policy_mapping_fn`` has a wrong type.
        ValueError: If ``env`` imports a module that is not on the list.
    """
    if not issubclass(state["class"], AlgorithmConfig):
        raise TypeError(f"{state['class'].__qualname__} is not a config")
    for name in state:
        check_attribute(state["class"], name)
    env = state.get("env")
    if not isinstance(env, str | None):
        raise TypeError(f"env is {env!r}, which is not the name of an environment")
    module, colon, _ = (env or "").rpartition(":")
    if colon and not _is_harmless(module):
        raise ValueError(f"env imports {module}, {NOT_LISTED}")
    if env and env.startswith(_PETTINGZOO) and not _is_of_pettingzoo(env.removeprefix(_PETTINGZOO)):
        raise ValueError(f"env imports {env.removeprefix(_PETTINGZOO)}, {NOT_LISTED}")
    mapping = state.get("policy_mapping_fn")
    if not (mapping is None or callable(mapping)):
        raise TypeError(f"policy_mapping_fn is {mapping!r}, which is not a function")


def _is_of_pettingzoo(written: str) -> bool:
    """Returns True if a module belongs to PettingZoo or has been imported already."""
    path = written.replace(".", "/")
    spec = find_spec("pettingzoo")
    folders = spec.submodule_search_locations if spec else None
    return written.replace("/", ".") in sys.modules or any(
        (Path(folder) / path).with_suffix(".py").is_file() for folder in folders or ()
    )


def _walk(value: Any) -> Iterator[Any]:
    """Yields all nodes of a tree: keys, values, items, functions and arguments of partials, attributes of objects."""
    visited_ids: set[int] = set()
    stack = [value]
    while stack:
        node = stack.pop()
        if id(node) in visited_ids:
            continue
        visited_ids.add(id(node))
        yield node
        if isinstance(node, str | bytes | int | float | np.ndarray | type | StandIn | None):
            continue
        if isinstance(node, dict):
            stack += [*node, *node.values()]
        elif isinstance(node, list | tuple | set | frozenset | deque):
            stack += node
        elif isinstance(node, partial):
            stack += [node.func, node.args, node.keywords]
        else:
            stack += vars(node).values() if hasattr(node, "__dict__") else []


@dataclass(frozen=True)
class Description:
    """Algorithm and environment of a checkpoint, read without importing modules that the checkpoint refers to.

    Attributes:
        algorithm: Name of the algorithm's class.
        env: Id of the environment, or name of its class; None if there is none.
        env_config: Settings of the environment.
    """

    algorithm: str
    env: str | None
    env_config: dict[str, Any]


def describe(checkpoint: Path) -> Description:
    """Returns the algorithm and environment of a checkpoint, even if its classes are not on the list.

    Raises:
        ValueError: If its file cannot be read.
    """
    file = checkpoint / Checkpointable.CLASS_AND_CTOR_ARGS_FILE_NAME
    cls, args, _ = _parts(_unpickle(file, ConstructorUnpickler)[0], file)
    if len(args) != 1 or not isinstance(args[0], dict):
        raise ValueError(f"{file}: is not in the format of RLlib's checkpoints")
    env, env_config = args[0].get("env"), args[0].get("env_config")
    return Description(
        algorithm=_class_name(cls),
        env=env if isinstance(env, str | None) else _class_name(env),
        env_config=env_config if isinstance(env_config, dict) else {},
    )


def _class_name(cls: Any) -> str:
    if isinstance(cls, StandIn):
        return (cls.class_by_value() or (cls.module, cls.name))[1]
    return getattr(cls, "__qualname__", type(cls).__qualname__)


def package_version() -> str | None:
    """Returns the version of this package; None if it is not installed."""
    try:
        return version("rllib_reciprocator")
    except PackageNotFoundError:
        return None


class VersionedCheckpoints(Algorithm):
    """Algorithm mixin that writes the version of this package into checkpoints."""

    @override(Algorithm)
    def get_metadata(self) -> dict[str, Any]:
        """Returns the content of the file ``METADATA``."""
        return {**super().get_metadata(), VERSION: package_version()}


@cache
def warn_of_later_version(checkpoint: Path) -> None:
    """Logs a warning, once per checkpoint, if a checkpoint was written by a later version of this package.

    Args:
        checkpoint: The checkpoint's folder.
    """
    try:
        checkpoint_version = json.loads((checkpoint / METADATA).read_text(encoding="utf-8")).get(VERSION)
        installed_version = package_version()
        is_later = checkpoint_version and installed_version and Version(checkpoint_version) > Version(installed_version)
    except (OSError, ValueError, AttributeError, TypeError):  # missing or invalid metadata
        return
    if is_later:
        logger.warning(
            "%s: was written by rllib_reciprocator %s, which is later than the installed version %s; settings of later"
            " versions may be ignored or fail",
            checkpoint,
            checkpoint_version,
            installed_version,
        )


def _files(folder: Path) -> Iterator[Path]:
    """Yields all files in a folder and its subfolders. Links are followed, because RLlib follows them."""
    visited = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(name)
        if real in visited:  # links may form cycles
            folders.clear()
            continue
        visited.add(real)
        folders.sort()
        yield from (Path(name) / file for file in sorted(files))


def check_pickles(folder: Path) -> None:
    """Checks the pickles in a folder by reading them with :func:`unpickle`, before RLlib reads them unchecked.

    RLlib reads the states of all components, i.e. weights, optimizer states and counters, and of the constructor files
    only those of modules.

    Raises:
        ValueError: If a file cannot be read or needs a name that is not on the list.
    """
    if is_trusted():
        return
    for file in _files(folder):
        if file.name == Checkpointable.CLASS_AND_CTOR_ARGS_FILE_NAME:
            if MODULE_PATH.as_posix() in file.as_posix():
                read_constructor(file.parent)
        elif file.suffix.lower() in (".pkl", ".pickle"):
            unpickle(file)
        elif file.suffix.lower() == ".msgpack":
            raise ValueError(f"{file}: may contain pickles; {OPTION} reads it, and runs their code")


def check_weights(folder: Path) -> None:
    """Checks that all weights of checkpointed modules are finite.

    Args:
        folder: Folder of one module or of several modules.

    Raises:
        ValueError: If a weight is not finite; the message names the module.
    """
    for file in _files(folder):
        if file.name != "module_state.pkl":
            continue
        for name, values in _arrays(unpickle(file), ""):
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ValueError(f"{file.parent}: {file.parent.name} diverged: its weights {name} are not finite")


def _arrays(state: Any, path: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields path and value of all arrays in a tree."""
    if isinstance(state, dict):
        for name, value in state.items():
            yield from _arrays(value, f"{path}/{name}" if path else str(name))
    elif isinstance(state, np.ndarray | torch.Tensor):
        yield path, np.asarray(state)


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
