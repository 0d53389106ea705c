"""RLlib's checkpoints on disk: found, looked through before anything of them is used, and read.

They are made of pickles, and to unpickle is to run what a file asks for. So nothing is unpickled that asks for more
than the classes of RLlib, of this package and of the libraries below;
who knows where a checkpoint is from can trust it.
"""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.checkpoints import Checkpointable

from social_dilemmas.registry import did_you_mean

logger = logging.getLogger(__name__)

MODULE_PATH = Path("learner_group", "learner", "rl_module")
METADATA = "rllib_checkpoint.json"
# Set to 1, checkpoints are unpickled whatever they ask for; in the environment, so that Ray's workers have it too.
TRUST = "RLLIB_RECIPROCATOR_TRUST_CHECKPOINTS"

# All classes in these packages.
_PACKAGES = ("ray.rllib", "rllib_reciprocator", "social_dilemmas", "gymnasium.spaces")
_NAMES = {
    "builtins": "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple",
    "collections": "Counter OrderedDict defaultdict deque",
    "datetime": "date datetime timedelta timezone",
    "functools": "partial",
    "numpy": "bool_ dtype float32 float64 int32 int64 ndarray uint8",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.numeric": "_frombuffer",
    "numpy.core.numeric": "_frombuffer",
    "numpy.random._generator": "Generator",
    "numpy.random._pcg64": "PCG64",
    "numpy.random._pickle": "__bit_generator_ctor __generator_ctor",
    "numpy.random.bit_generator": "SeedSequence __pyx_unpickle_SeedSequence",
    "pathlib": "Path PosixPath PurePath PurePosixPath",
    "pathlib._local": "Path PosixPath PurePath PurePosixPath",
    "ray.rllib.algorithms.algorithm_config": "AlgorithmConfig.DEFAULT_POLICY_MAPPING_FN",
    "rllib_reciprocator.episodes.reciprocate": "_learner_pieces _runner_pieces",
    "rllib_reciprocator.batched.config": "_module_of",
    "rllib_reciprocator.episodes.observations": "preparing preparing_one",
    "rllib_reciprocator.episodes.modules": "_module_of",
    "torch": "BoolStorage DoubleStorage FloatStorage IntStorage LongStorage Size UInt8Storage device",
    "torch._utils": "_rebuild_parameter _rebuild_tensor_v2",
}
# What version 0.1.0 called otherwise: modules, and single names in them.
_MOVED_MODULES = {
    f"rllib_reciprocator.{old}": f"rllib_reciprocator.{new}"
    for old, new in {
        "algorithms.reciprocate": "episodes.algorithms",
        "algorithms.reciprocator.settings": "intrinsic.reciprocity",
        "callbacks.episode_influence": "episodes.influence_callback",
        "callbacks.episode_outcomes": "episodes.outcomes_callback",
        "connectors.episode_influence": "episodes.influence",
        "connectors.joint_steps": "episodes.joint_steps",
        "estimators.counterfactual": "influence.counterfactual",
        "estimators.mixed_reward_model": "influence.mixed_reward_model",
        "estimators.own_view": "influence.own_view",
        "estimators.reward_model": "influence.reward_model",
        "estimators.tabular": "influence.tabular",
        "estimators.transition_model": "influence.transition_model",
        "rewards.rules": "intrinsic.reciprocity",
        "rollout.batched_env_runner": "batched.env_runner",
    }.items()
}
_MOVED_NAMES = {
    ("rllib_reciprocator.algorithms.reciprocator.config", "_own_module"): (
        "rllib_reciprocator.batched.config",
        "_module_of",
    ),
    ("rllib_reciprocator.callbacks.social_metrics", "SocialMetricsCallback"): (
        "ray.rllib.callbacks.callbacks",
        "RLlibCallback",
    ),
}
ALLOWED = frozenset((module, name) for module, names in _NAMES.items() for name in names.split())


class _Unpickler(pickle.Unpickler):
    """Refuses whatever is not on the list."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of that name.

        Raises:
            pickle.UnpicklingError: If it is not on the list.
        """
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _load_storage
        module, name = _MOVED_NAMES.get((module, name), (_MOVED_MODULES.get(module, module), name))
        if (module, name) in ALLOWED:
            return super().find_class(module, name)
        if _is_within(module):
            try:
                found = super().find_class(module, name)
            except (ImportError, AttributeError):  # of another version
                return self.refuse(module, name)
            if isinstance(found, type) and _is_within(found.__module__):
                return found
        return self.refuse(module, name)

    def refuse(self, module: str, name: str) -> Any:
        """Called for what is not on the list."""
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, {_UNKNOWN}")


_UNKNOWN = "which is not RLlib's nor this package's; --trust reads it if you know where it is from"


class _LenientUnpickler(_Unpickler):
    """Puts something that does nothing in the place of what is not on the list."""

    def refuse(self, module: str, name: str) -> Any:
        """A stand-in: a class, since pickles may ask for objects of it."""
        return type(name, (_StandIn,), {"module": module, "name": name})


class _StandIn:
    """Takes the place of a class, a function, and of what a call of it returns. Whatever is done to it does nothing.

    Attributes:
        module: Of what it takes the place of.
        name: The same.
        arguments: With which it was called.
    """

    module = name = ""
    arguments: tuple = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> _StandIn:
        made = super().__new__(cls)
        made.arguments = args
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> _StandIn:
        return type(self)(*args)

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Ignores it."""

    def extend(self, values: Any) -> None:
        """Ignores them."""

    def named_class(self) -> tuple[str, str] | None:
        """Module and name of the class whose code this stands for, as cloudpickle writes it; None if it is no class."""
        if self.name == "_make_skeleton_class" and len(self.arguments) > 3 and isinstance(self.arguments[3], dict):
            return str(self.arguments[3].get("__module__")), str(self.arguments[1])
        return None


def _is_within(module: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in _PACKAGES)


def _load_storage(content: bytes) -> Any:
    """What PyTorch pickles tensors as, read by PyTorch's own list of what may be in it."""
    return torch.load(io.BytesIO(content), weights_only=True)


def is_trusted() -> bool:
    """Whether checkpoints are unpickled whatever they ask for."""
    return os.environ.get(TRUST) == "1"


def unpickle(file: Path, reader: type[_Unpickler] = _Unpickler) -> Any:
    """What is in a pickle that asks for nothing but what is on the list; anything, where checkpoints are trusted.

    Args:
        file: The file.
        reader: What reads it.

    Raises:
        ValueError: If the file cannot be read or asks for more.
    """
    try:
        content = file.read_bytes()
        return pickle.loads(content) if is_trusted() else reader(io.BytesIO(content)).load()
    except Exception as error:  # a broken pickle raises whatever it leads to
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{file}: cannot be read ({reason[0]})") from None


def read_constructor(folder: Path) -> tuple[type, tuple, dict[str, Any]]:
    """The class of a checkpointed component, and the arguments it was built with.

    Ray changes the classes of its actors, and RLlib's checkpoints then hold the code of a whole class. That code is not
    run: the class is imported by its name.

    Args:
        folder: The component's folder in a checkpoint.

    Raises:
        ValueError: If its file cannot be read, or asks for what is not on the list.
    """
    file = folder / Checkpointable.CLASS_AND_CTOR_ARGS_FILE_NAME
    built = unpickle(file, _LenientUnpickler)
    try:
        found, (args, kwargs) = built["class"], built["ctor_args_and_kwargs"]
    except (LookupError, TypeError, ValueError):
        raise ValueError(f"{file}: is not what RLlib writes") from None
    if isinstance(found, _StandIn) and (named := found.named_class()):
        try:
            found = _Unpickler(io.BytesIO()).find_class(*named)
        except (pickle.UnpicklingError, ImportError, AttributeError) as error:
            raise ValueError(f"{file}: cannot be read ({error})") from None
    for unknown in _stand_ins((found, args, kwargs)):
        raise ValueError(f"{file}: cannot be read (it asks for {unknown.module}.{unknown.name}, {_UNKNOWN})")
    return found, args, kwargs


def read_config(checkpoint: Path) -> AlgorithmConfig:
    """The configuration that a checkpoint was made with.

    Raises:
        ValueError: If its file cannot be read.
    """
    try:
        algorithm, (state,), _ = read_constructor(checkpoint)
        return algorithm.get_default_config().from_state(state)  # type: ignore[attr-defined]
    except Exception as error:  # settings of another version may be anything
        raise ValueError(f"{checkpoint}: its settings cannot be read ({error})") from None


def _stand_ins(value: Any) -> Iterator[_StandIn | type[_StandIn]]:
    """All stand-ins in a tree, and in the attributes of what is in it."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, str | int | float | np.ndarray | None):
            continue
        seen.add(id(each))
        if isinstance(each, _StandIn) or (isinstance(each, type) and issubclass(each, _StandIn)):
            yield each
        elif isinstance(each, type):
            continue
        elif isinstance(each, dict):
            waiting += [*each, *each.values()]
        elif isinstance(each, list | tuple | set | frozenset):
            waiting += each
        elif isinstance(each, partial):
            waiting += [each.func, each.args, each.keywords]
        else:
            waiting += vars(each).values() if hasattr(each, "__dict__") else []


def check_pickles(folder: Path) -> None:
    """Reads the pickles in a folder as :func:`unpickle` does, before RLlib reads them without looking.

    RLlib reads the states of all components, and the constructors of modules alone.

    Raises:
        ValueError: If one cannot be read or asks for more than is on the list.
    """
    if is_trusted():
        return
    for file in sorted(folder.rglob("*")):
        if file.name == Checkpointable.CLASS_AND_CTOR_ARGS_FILE_NAME:
            if MODULE_PATH.as_posix() in file.as_posix():
                unpickle(file)
        elif file.suffix in (".pkl", ".pickle"):
            unpickle(file)
        elif file.suffix == ".msgpack":
            raise ValueError(f"{file}: may hold pickles; --trust reads it if you know where it is from")


def check_weights(folder: Path) -> None:
    """Checks that all weights of checkpointed modules are numbers.

    Args:
        folder: A module's, or that of several.

    Raises:
        ValueError: If one is not; the message names the module.
    """
    for file in sorted(folder.rglob("module_state.pkl")):
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
