"""Configurations in checkpoints."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.checkpoints import Checkpointable

from rllib_reciprocator.utils.checkpoints.pickles import (
    component_parts,
    is_harmless,
    is_trusted,
    read_constructor,
    read_pickle,
)
from rllib_reciprocator.utils.pickle_functions import NOT_LISTED, check_attribute
from rllib_reciprocator.utils.restricted_pickle import ConstructorUnpickler
from rllib_reciprocator.utils.stand_in import StandIn

_PETTINGZOO = "pettingzoo/"


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
    if colon and not is_harmless(module):
        raise ValueError(f"env imports {module}, {NOT_LISTED}")
    if env and env.startswith(_PETTINGZOO) and not _is_of_pettingzoo(env.removeprefix(_PETTINGZOO)):
        raise ValueError(f"env imports {env.removeprefix(_PETTINGZOO)}, {NOT_LISTED}")
    mapping = state.get("policy_mapping_fn")
    if not (mapping is None or callable(mapping)):
        raise TypeError(f"policy_mapping_fn is {mapping!r}, which is not a function")


def _is_of_pettingzoo(module_path: str) -> bool:
    """Returns True if a module belongs to PettingZoo or has been imported already."""
    path = module_path.replace(".", "/")
    spec = find_spec("pettingzoo")
    folders = spec.submodule_search_locations if spec else None
    return module_path.replace("/", ".") in sys.modules or any(
        (Path(folder) / path).with_suffix(".py").is_file() for folder in folders or ()
    )


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
    cls, args, _ = component_parts(read_pickle(file, ConstructorUnpickler)[0], file)
    if len(args) != 1 or not isinstance(args[0], dict):
        raise ValueError(f"{file}: is not in the format of RLlib's checkpoints")
    env, env_config = args[0].get("env"), args[0].get("env_config")
    return Description(
        algorithm=_class_name(cls),
        env=env if isinstance(env, str | None) else _class_name(env),
        env_config=env_config if isinstance(env_config, dict) else {},
    )


def _class_name(cls: object) -> str:
    if isinstance(cls, StandIn):
        return (cls.class_by_value() or (cls.module, cls.name))[1]
    return getattr(cls, "__name__", type(cls).__name__)
