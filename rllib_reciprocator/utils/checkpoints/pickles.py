"""Readers of the pickles in checkpoints, which refuse names that are not on the list unless they are trusted."""

from __future__ import annotations

import io
import os
import pickle
import re
import sys
from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.rllib.utils.checkpoints import Checkpointable

from rllib_reciprocator.utils.checkpoints.folders import MODULE_PATH, all_files
from rllib_reciprocator.utils.pickle_functions import NOT_LISTED, OPTION
from rllib_reciprocator.utils.restricted_pickle import ConstructorUnpickler, WeightsUnpickler
from rllib_reciprocator.utils.stand_in import StandIn

# Environment variable that disables the check of pickles if it is 1. It is not a setting, so that Ray's workers inherit
# it.
TRUST = "RLLIB_RECIPROCATOR_TRUST_CHECKPOINTS"
_PACKAGES = ("rllib_reciprocator", "social_dilemmas")
# Settings of the form MODULE:NAME, or module/MODULE:CLASS for players, import the module when they are used, whatever
# is after the colon. Any file on Python's path can be imported by its name.
_MODULE, _DEVICE = re.compile(r"[^/\s]+"), re.compile(r"(cpu|cuda|mps|xpu):\d+")


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
    return read_pickle(file, WeightsUnpickler)[0]


def read_pickle(file: Path, reader_class: type[WeightsUnpickler]) -> tuple[Any, WeightsUnpickler]:
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
    content, reader = read_pickle(file, ConstructorUnpickler)
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
    return component_parts(content, file)


_CLASS = "class"


def component_parts(content: Any, file: Path) -> tuple[Any, tuple, dict[str, Any]]:
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
        if colon and not rest.startswith("//") and _MODULE.fullmatch(module) and not is_harmless(module):
            return module
    return None


def is_harmless(module: str) -> bool:
    """Returns True if importing a module runs no foreign code: it is in this package or has been imported already."""
    return module.partition(".")[0] in _PACKAGES or module in sys.modules


def _walk(value: object) -> Iterator[Any]:
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


def check_pickles(folder: Path) -> None:
    """Checks the pickles in a folder by reading them with :func:`unpickle`, before RLlib reads them unchecked.

    RLlib reads the states of all components, i.e. weights, optimizer states and counters, and of the constructor files
    only those of modules.

    Raises:
        ValueError: If a file cannot be read or needs a name that is not on the list.
    """
    if is_trusted():
        return
    for file in all_files(folder):
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
    for file in all_files(folder):
        if file.name != "module_state.pkl":
            continue
        for name, values in _arrays(unpickle(file), ""):
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ValueError(f"{file.parent}: {file.parent.name} diverged: its weights {name} are not finite")


def _arrays(state: object, path: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields path and value of all arrays in a tree."""
    if isinstance(state, dict):
        for name, value in state.items():
            yield from _arrays(value, f"{path}/{name}" if path else str(name))
    elif isinstance(state, np.ndarray | torch.Tensor):
        yield path, np.asarray(state)
