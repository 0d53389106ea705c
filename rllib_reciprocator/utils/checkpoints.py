"""RLlib's checkpoints on disk: found, looked through before anything of them is used, and read.

They are made of pickles, and to unpickle is to run what a file asks for. So nothing is unpickled that asks for more
than the exact names on the lists of :mod:`rllib_reciprocator.utils.restricted_pickle`; ``--trust``
reads a checkpoint whatever it asks for.
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
# Set to 1, checkpoints are unpickled whatever they ask for; in the environment, so that Ray's workers have it too.
TRUST = "RLLIB_RECIPROCATOR_TRUST_CHECKPOINTS"

# Key of METADATA: the version of this package that wrote a checkpoint.
VERSION = "rllib_reciprocator_version"
_PACKAGES = ("rllib_reciprocator", "social_dilemmas")
# Settings name a module that is imported when they are used as MODULE:NAME, that of a player as module/MODULE:CLASS.
# Whatever stands after the colon, the module is imported first; a file of any name can be imported by its name.
_MODULE, _DEVICE = re.compile(r"[^/\s]+"), re.compile(r"(cpu|cuda|mps|xpu):\d+")
_PETTINGZOO = "pettingzoo/"


def is_trusted() -> bool:
    """Whether checkpoints are unpickled whatever they ask for."""
    return os.environ.get(TRUST) == "1"


def unpickle(file: Path) -> Any:
    """Returns what is in a pickle of weights, optimizers or counters; of anything, if checkpoints are trusted.

    Args:
        file: The file.

    Raises:
        ValueError: If the file cannot be read or asks for more.
    """
    return _unpickle(file, WeightsUnpickler)[0]


def _unpickle(file: Path, reader_class: type[WeightsUnpickler]) -> tuple[Any, WeightsUnpickler]:
    """Returns what is in a pickle, and what read it."""
    try:
        content = file.read_bytes()
        reader = reader_class(io.BytesIO(content))
        return (pickle.loads(content) if is_trusted() else reader.load()), reader
    except Exception as error:  # a broken pickle raises whatever it leads to
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{file}: cannot be read ({reason[0]})") from None


def read_constructor(folder: Path) -> tuple[type, tuple, dict[str, Any]]:
    """Returns the class of a checkpointed component, and the arguments it was built with.

    Ray changes the classes of its actors, and RLlib's checkpoints then hold the code of a whole class. That code is not
    run: the class is imported by its name.

    Args:
        folder: The component's folder in a checkpoint.

    Raises:
        ValueError: If its file cannot be read, or asks for what is not on the list.
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
    """Returns class, arguments and keyword arguments from what RLlib writes of a component.

    Raises:
        ValueError: If it is something else.
    """
    try:
        cls, (args, kwargs) = content[_CLASS], content["ctor_args_and_kwargs"]
        if isinstance(cls, type | StandIn) and isinstance(args, tuple) and isinstance(kwargs, dict):
            return cls, args, kwargs
    except (LookupError, TypeError, ValueError):
        pass
    raise ValueError(f"{file}: is not what RLlib writes")


def _module_to_import(value: str) -> str | None:
    """Returns the module that a setting names, if it is not of this package, and importing it would run its code."""
    name = value.removeprefix("module/")
    if _DEVICE.fullmatch(name):
        return None
    for module, colon, rest in (name.partition(":"), name.rpartition(":")):
        if colon and not rest.startswith("//") and _MODULE.fullmatch(module) and not _is_harmless(module):
            return module
    return None


def _is_harmless(module: str) -> bool:
    """Returns True if importing a module runs no code: it is of this package, or imported already."""
    return module.partition(".")[0] in _PACKAGES or module in sys.modules


def read_config(checkpoint: Path) -> AlgorithmConfig:
    """Returns the configuration that a checkpoint was made with.

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
    except Exception as error:  # settings of another version may be anything
        raise ValueError(f"{checkpoint}: its settings cannot be read ({error})") from None


def _check_config(state: dict[str, Any]) -> None:
    """Checks what a configuration's attributes can make RLlib call or import; their values are of listed classes."""
    if not issubclass(state["class"], AlgorithmConfig):
        raise TypeError(f"{state['class'].__qualname__} is not a configuration")
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
    """Returns True if a module is PettingZoo's own, or is imported already."""
    path = written.replace(".", "/")
    spec = find_spec("pettingzoo")
    folders = spec.submodule_search_locations if spec else None
    return written.replace("/", ".") in sys.modules or any(
        (Path(folder) / path).with_suffix(".py").is_file() for folder in folders or ()
    )


def _walk(value: Any) -> Iterator[Any]:
    """Yields everything in a tree: keys, values, items, parts of partials, attributes of objects."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, str | bytes | int | float | np.ndarray | type | StandIn | None):
            continue
        if isinstance(node, dict):
            waiting += [*node, *node.values()]
        elif isinstance(node, list | tuple | set | frozenset | deque):
            waiting += node
        elif isinstance(node, partial):
            waiting += [node.func, node.args, node.keywords]
        else:
            waiting += vars(node).values() if hasattr(node, "__dict__") else []


@dataclass(frozen=True)
class Description:
    """Algorithm and environment of a checkpoint, read without importing anything that it names.

    Attributes:
        algorithm: Name of the algorithm's class.
        env: Id of the game or environment, or name of its class; None if there is none.
        env_config: Settings of the environment.
    """

    algorithm: str
    env: str | None
    env_config: dict[str, Any]


def describe(checkpoint: Path) -> Description:
    """Returns the algorithm and environment of a checkpoint, also of one whose classes are not on the list.

    Raises:
        ValueError: If its file cannot be read.
    """
    file = checkpoint / Checkpointable.CLASS_AND_CTOR_ARGS_FILE_NAME
    cls, args, _ = _parts(_unpickle(file, ConstructorUnpickler)[0], file)
    if len(args) != 1 or not isinstance(args[0], dict):
        raise ValueError(f"{file}: is not what RLlib writes")
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
    """Returns the version of this package; None where it is not installed."""
    try:
        return version("rllib_reciprocator")
    except PackageNotFoundError:
        return None


class VersionedCheckpoints(Algorithm):
    """Mixed into an algorithm: its checkpoints name the version of this package."""

    @override(Algorithm)
    def get_metadata(self) -> dict[str, Any]:
        """Returns what is written into METADATA."""
        return {**super().get_metadata(), VERSION: package_version()}


@cache
def warn_of_later_version(checkpoint: Path) -> None:
    """Logs a warning, once, if a checkpoint is of a later version of this package.

    Args:
        checkpoint: Its folder.
    """
    try:
        written = json.loads((checkpoint / METADATA).read_text(encoding="utf-8")).get(VERSION)
        present = package_version()
        later = written and present and Version(written) > Version(present)
    except (OSError, ValueError, AttributeError, TypeError):  # of no version that there is
        return
    if later:
        logger.warning(
            "%s: was written by rllib_reciprocator %s, which is later than this version, %s; what came in between is"
            " not known here",
            checkpoint,
            written,
            present,
        )


def _files(folder: Path) -> Iterator[Path]:
    """Yields all files in a folder, also below links, which RLlib follows."""
    visited = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(name)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders.sort()
        yield from (Path(name) / file for file in sorted(files))


def check_pickles(folder: Path) -> None:
    """Reads the pickles in a folder as :func:`unpickle` does, before RLlib reads them without looking.

    RLlib reads the states of all components: weights, optimizers, counters. The constructors of modules are read too,
    others never.

    Raises:
        ValueError: If one cannot be read or asks for more than is on the list.
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
            raise ValueError(f"{file}: may hold pickles; {OPTION} reads it, and runs their code")


def check_weights(folder: Path) -> None:
    """Checks that all weights of checkpointed modules are numbers.

    Args:
        folder: A module's, or that of several.

    Raises:
        ValueError: If one is not; the message names the module.
    """
    for file in _files(folder):
        if file.name != "module_state.pkl":
            continue
        for name, values in _arrays(unpickle(file), ""):
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ValueError(f"{file.parent}: {file.parent.name} diverged: its weights {name} are not finite")


def _arrays(state: Any, path: str) -> Iterator[tuple[str, np.ndarray]]:
    """All arrays in a tree, by path."""
    if isinstance(state, dict):
        for name, value in state.items():
            yield from _arrays(value, f"{path}/{name}" if path else str(name))
    elif isinstance(state, np.ndarray | torch.Tensor):
        yield path, np.asarray(state)


def find_checkpoint(folder: Path) -> Path:
    """The checkpoint that a folder is, or the last one of the run that it is of.

    Args:
        folder: A checkpoint's folder, a trial's, or that of an experiment with one trial. Of several runs of one name
            it is the newest.

    Raises:
        ValueError: If there is none, or several trials have one.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such checkpoint")
    if _is_checkpoint(folder):
        return folder
    found = [_last(trial) for trial in (folder, *newest_trials(folder))]
    last = [checkpoint for checkpoint in found if checkpoint]
    if len(last) > 1:
        trials = [checkpoint.parent.name for checkpoint in last]
        shown = ", ".join(trials[:4]) + (", .." if len(trials) > 4 else "")
        raise ValueError(f"{folder}: has the checkpoints of {len(last)} trials; give one of {shown}")
    if not last:
        raise ValueError(f"{folder}: not an Algorithm checkpoint (it has no {METADATA}), nor a run with one")
    return last[0]


def newest_trials(folder: Path) -> list[Path]:
    """The folders of an experiment's trials; where it was run several times under its name, those of the last time."""
    trials = sorted(each for each in folder.iterdir() if each.is_dir())
    states = sorted(folder.glob("experiment_state-*.json"))
    if len(states) < 2:
        return trials
    try:
        described = [json.loads(trial) for trial, _ in json.loads(states[-1].read_text(encoding="utf-8"))["trial_data"]]
        newest = {trial["relative_logdir"] for trial in described}
    except (OSError, ValueError, LookupError, TypeError):
        return trials
    taken = [trial for trial in trials if trial.name in newest]
    if not taken or not any((trial / "params.json").is_file() for trial in trials if trial not in taken):
        return trials
    when = states[-1].stem.removeprefix("experiment_state-").replace("_", " ")
    logger.warning("%s: was run %d times; the newest, of %s, is taken", folder, len(states), when)
    return taken


def _is_checkpoint(folder: Path) -> bool:
    """Whether RLlib says that it wrote a folder; its files of text tell, without unpickling."""
    try:
        described = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(described, dict) and "ray_version" in described and (folder / MODULE_PATH).is_dir()


def _last(trial: Path) -> Path | None:
    """A trial's last whole checkpoint."""
    whole = (each for each in trial.glob("checkpoint_*") if _is_checkpoint(each))
    return max(whole, default=None, key=lambda each: each.name)


def module_in(checkpoint: Path, name: str) -> Path:
    """The folder of a module in a checkpoint.

    Raises:
        ValueError: If there is none of that name.
    """
    folder = checkpoint / MODULE_PATH / name
    if folder.parent != checkpoint / MODULE_PATH or not folder.is_dir():
        there = [each.name for each in (checkpoint / MODULE_PATH).iterdir() if each.is_dir()]
        raise ValueError(f"{checkpoint} has no player {name!r}{did_you_mean(name, there)}")
    return folder
