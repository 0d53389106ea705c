"""Restricted unpicklers for checkpoints from untrusted sources.

A pickle is a program: it looks up functions and classes by name, calls them, and modifies objects and classes. The
unpicklers of this module execute the opcodes that build plain data, and of all other opcodes only those that genuine
checkpoints need:

- a function or class is looked up only if its exact name is listed below;
- only the functions and classes in ``_WEIGHT_FUNCTIONS``, ``_CONSTRUCTOR_FUNCTIONS`` and ``_CALLED`` are called, the
  functions with arguments of the types that NumPy and PyTorch write; all other listed classes may be referred to, e.g.
  in settings, but not called;
- the state of an object is set only if the object's class is listed, and never if it is a class or a function itself.

Opcodes that Python has not written since protocol 4 (2014), persistent ids and the extension codes of ``copyreg`` are
refused.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import import_module
from inspect import getattr_static
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, WrapperDescriptorType
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from torch.storage import TypedStorage, UntypedStorage

try:  # name of the package since NumPy 2
    from numpy._core import multiarray, numeric
except ImportError:
    from numpy.core import multiarray, numeric  # type: ignore[no-redef]
from numpy.random import PCG64, Generator, SeedSequence
from numpy.random import bit_generator as random_bit_generator

from rllib_reciprocator.utils.moved_modules import new_name

OPTION = "--trust"
NOT_LISTED = f"which is not on the list; {OPTION} reads it, and runs its code"


def _refuse(reason: str) -> NoReturn:
    raise pickle.UnpicklingError(reason)


def _require(condition: bool, name: str) -> None:
    if not condition:
        _refuse(f"it calls {name} with other arguments than {name.partition('.')[0]} writes")


# Replacements of the functions that pickles of NumPy and PyTorch call. They accept only the arguments that these
# libraries write.

_NUMBER = re.compile(r"b1|[iu][1248]|f[248]|c(8|16)")


def _dtype(*arguments: Any) -> np.dtype:
    """Returns a numeric dtype. Dtypes of objects, or with fields, would interpret bytes of the file as pointers."""
    code = arguments[0] if arguments else None
    is_plain = arguments[1:] == (False, True) and isinstance(code, str) and _NUMBER.fullmatch(code)
    _require(bool(is_plain), "numpy.dtype")
    return np.dtype(*arguments)


def _set_dtype_state(dtype: np.dtype, state: Any) -> None:
    _require(
        isinstance(state, tuple)
        and len(state) == 8
        and type(state[1]) is str
        and state[1] in ("<", ">", "|", "=")
        and state == (3, state[1], None, None, None, -1, -1, 0),
        "numpy.dtype",
    )
    dtype.__setstate__(state)  # type: ignore[attr-defined]


def _is_shape(value: Any) -> bool:
    return type(value) is tuple and all(type(size) is int for size in value)


def _array_from_buffer(content: Any, dtype: Any, shape: Any, order: Any = "C", axis_order: Any = None) -> np.ndarray:
    _require(
        type(content) in (bytes, bytearray)
        and isinstance(dtype, np.dtype)
        and _is_shape(shape)
        and order in ("C", "F", "A", "K")
        and (axis_order is None or _is_shape(axis_order)),
        "numpy._frombuffer",
    )
    return numeric._frombuffer(content, dtype, shape, order, *([] if axis_order is None else [axis_order]))  # type: ignore[attr-defined]


def _empty_array(subtype: Any, shape: Any, code: Any) -> np.ndarray:
    _require(subtype is np.ndarray and shape == (0,) and code in (b"b", "b"), "numpy._reconstruct")
    return multiarray._reconstruct(subtype, shape, code)  # type: ignore[return-value]


def _set_array_state(array: np.ndarray, state: Any) -> None:
    _require(
        isinstance(state, tuple)
        and len(state) == 5
        and _is_shape(state[1])
        and isinstance(state[2], np.dtype)
        and type(state[4]) is bytes
        and array.size == 0,
        "numpy.ndarray",
    )
    array.__setstate__(state)


def _scalar(dtype: Any, content: Any) -> Any:
    _require(isinstance(dtype, np.dtype) and type(content) is bytes and len(content) == dtype.itemsize, "numpy.scalar")
    return multiarray.scalar(dtype, content)


def _bit_generator(name: Any = None) -> PCG64:
    _require(name is PCG64 or name == "PCG64", "numpy.random.__bit_generator_ctor")
    return PCG64(0)


def _generator(bit_generator: Any = None, constructor: Any = _bit_generator) -> Generator:
    if bit_generator == "PCG64":
        bit_generator = PCG64(0)
    _require(type(bit_generator) is PCG64 and constructor is _bit_generator, "numpy.random.__generator_ctor")
    return Generator(bit_generator)


def _seed_sequence(*arguments: Any) -> SeedSequence:
    _require(
        len(arguments) == 3 and arguments[0] is SeedSequence and type(arguments[1]) is int,
        "numpy.random.__pyx_unpickle_SeedSequence",
    )
    return random_bit_generator.__pyx_unpickle_SeedSequence(*arguments)  # type: ignore[attr-defined]


def _storage(content: Any) -> Any:
    """Reads the storage of a tensor with ``weights_only=True``, unlike PyTorch's function, which unpickles anything."""
    _require(type(content) is bytes, "torch.storage._load_from_bytes")
    storage = torch.load(io.BytesIO(content), weights_only=True)
    _require(isinstance(storage, TypedStorage | UntypedStorage), "torch.storage._load_from_bytes")
    return storage


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any) -> torch.Tensor:
    _require(
        isinstance(storage, TypedStorage)
        and type(offset) is int
        and _is_shape(size)
        and _is_shape(stride)
        and min((0, offset, *size, *stride)) == 0
        and isinstance(requires_grad, bool)
        and type(hooks) is OrderedDict
        and not hooks,
        "torch._rebuild_tensor_v2",
    )
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)


def _parameter(tensor: Any, requires_grad: Any, hooks: Any) -> torch.nn.Parameter:
    _require(
        type(tensor) is torch.Tensor and isinstance(requires_grad, bool) and type(hooks) is OrderedDict and not hooks,
        "torch._rebuild_parameter",
    )
    return torch._utils._rebuild_parameter(tensor, requires_grad, hooks)


_FACTORIES = (None, bool, dict, float, int, list, set, str, tuple)


def _default_dict(factory: Any = None) -> defaultdict:
    _require(any(factory is factory_type for factory_type in _FACTORIES), "collections.defaultdict")
    return defaultdict(factory)


def _ordered_dict() -> OrderedDict:
    return OrderedDict()


_WEIGHT_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("numpy", "dtype"): _dtype,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("_core", "core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _empty_array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _array_from_buffer),
        )
    },
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
}

# Names in the constructor arguments of algorithms and modules of genuine checkpoints. First, classes that are called:
# containers, paths and similar.
_CALLED = {
    "builtins": "bytearray complex range set slice",
    "collections": "Counter deque",
    "pathlib": "Path PosixPath PurePath PurePosixPath",
    "pathlib._local": "Path PosixPath PurePath PurePosixPath",
    "ray.rllib.algorithms.algorithm_config": "TorchCompileWhatToCompile",
    "torch": "Size device",
}
# Second, classes whose objects are created without a constructor call and get a state: settings, specs and spaces.
_BUILT = {
    "gymnasium.spaces.box": "Box",
    "gymnasium.spaces.dict": "Dict",
    "gymnasium.spaces.discrete": "Discrete",
    "gymnasium.spaces.graph": "Graph",
    "gymnasium.spaces.multi_binary": "MultiBinary",
    "gymnasium.spaces.multi_discrete": "MultiDiscrete",
    "gymnasium.spaces.oneof": "OneOf",
    "gymnasium.spaces.sequence": "Sequence",
    "gymnasium.spaces.text": "Text",
    "gymnasium.spaces.tuple": "Tuple",
    "ray.rllib.core.rl_module.default_model_config": "DefaultModelConfig",
    "ray.rllib.core.rl_module.multi_rl_module": "MultiRLModuleSpec",
    "ray.rllib.core.rl_module.rl_module": "RLModuleSpec",
    "rllib_reciprocator.algorithms.coala.coala": "COALASettings",
    "rllib_reciprocator.engine.meta_episodes": "MetaSettings",
    "rllib_reciprocator.rllib_episodes.composition": "Composition EpisodeSetup",
    "rllib_reciprocator.rllib_episodes.influence": "EpisodeReciprocity",
    "rllib_reciprocator.rllib_episodes.joint_steps": "JointSpaces",
    "rllib_reciprocator.rllib_episodes.env_spec": "EnvSpec",
    "rllib_reciprocator.intrinsic.incentives.settings": "IncentiveSettings",
    "rllib_reciprocator.intrinsic.inequity_aversion": "InequityAversionSettings",
    "rllib_reciprocator.intrinsic.reciprocity.settings": "ReciprocitySettings WeightSchedule",
    "rllib_reciprocator.intrinsic.shared_reward": "SharedRewardSettings",
    "rllib_reciprocator.intrinsic.social_value_orientation": "SocialValueOrientationSettings",
    "rllib_reciprocator.models.settings": "ModelSettings",
    "rllib_reciprocator.players.learning_settings": "LearningSettings",
    "rllib_reciprocator.players.players": "Player",
}
# Third, names that are only referred to.
_NAMED = {
    "builtins": "bool bytes dict float frozenset int list object str tuple",
    "numpy": "bool_ float32 float64 int32 int64 ndarray uint8",
    "numpy.random._pcg64": "PCG64",
    "numpy.random.bit_generator": "SeedSequence",
    "ray.rllib.algorithms.algorithm_config": "AlgorithmConfig.DEFAULT_POLICY_MAPPING_FN",
    "ray.rllib.algorithms.appo.appo": "APPO APPOConfig",
    "ray.rllib.algorithms.appo.torch.appo_torch_learner": "APPOTorchLearner",
    "ray.rllib.algorithms.appo.torch.default_appo_torch_rl_module": "DefaultAPPOTorchRLModule",
    "ray.rllib.algorithms.bc.bc": "BC BCConfig",
    "ray.rllib.algorithms.bc.bc_catalog": "BCCatalog",
    "ray.rllib.algorithms.bc.torch.default_bc_torch_rl_module": "DefaultBCTorchRLModule",
    "ray.rllib.algorithms.cql.cql": "CQL CQLConfig",
    "ray.rllib.algorithms.cql.torch.cql_torch_learner": "CQLTorchLearner",
    "ray.rllib.algorithms.cql.torch.default_cql_torch_rl_module": "DefaultCQLTorchRLModule",
    "ray.rllib.algorithms.dqn.dqn": "DQN DQNConfig",
    "ray.rllib.algorithms.dqn.dqn_catalog": "DQNCatalog",
    "ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module": "DefaultDQNTorchRLModule",
    "ray.rllib.algorithms.dqn.torch.dqn_torch_learner": "DQNTorchLearner",
    "ray.rllib.algorithms.dreamerv3.dreamerv3": "DreamerV3 DreamerV3Config",
    "ray.rllib.algorithms.dreamerv3.dreamerv3_catalog": "DreamerV3Catalog",
    "ray.rllib.algorithms.dreamerv3.torch.dreamerv3_torch_learner": "DreamerV3TorchLearner",
    "ray.rllib.algorithms.dreamerv3.torch.dreamerv3_torch_rl_module": "DreamerV3TorchRLModule",
    "ray.rllib.algorithms.impala.impala": "IMPALA IMPALAConfig",
    "ray.rllib.algorithms.impala.torch.impala_torch_learner": "IMPALATorchLearner",
    "ray.rllib.algorithms.iql.iql": "IQL IQLConfig",
    "ray.rllib.algorithms.iql.torch.default_iql_torch_rl_module": "DefaultIQLTorchRLModule",
    "ray.rllib.algorithms.iql.torch.iql_torch_learner": "IQLTorchLearner",
    "ray.rllib.algorithms.marwil.marwil": "MARWIL MARWILConfig",
    "ray.rllib.algorithms.marwil.torch.marwil_torch_learner": "MARWILTorchLearner",
    "ray.rllib.algorithms.ppo.ppo": "PPO PPOConfig",
    "ray.rllib.algorithms.ppo.ppo_catalog": "PPOCatalog",
    "ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module": "DefaultPPOTorchRLModule",
    "ray.rllib.algorithms.ppo.torch.ppo_torch_learner": "PPOTorchLearner",
    "ray.rllib.algorithms.sac.sac": "SAC SACConfig",
    "ray.rllib.algorithms.sac.sac_catalog": "SACCatalog",
    "ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module": "DefaultSACTorchRLModule",
    "ray.rllib.algorithms.sac.torch.sac_torch_learner": "SACTorchLearner",
    "ray.rllib.algorithms.tqc.torch.default_tqc_torch_rl_module": "DefaultTQCTorchRLModule",
    "ray.rllib.algorithms.tqc.torch.tqc_torch_learner": "TQCTorchLearner",
    "ray.rllib.algorithms.tqc.tqc": "TQC TQCConfig",
    "ray.rllib.algorithms.tqc.tqc_catalog": "TQCCatalog",
    "ray.rllib.callbacks.callbacks": "RLlibCallback",
    "ray.rllib.core.models.catalog": "Catalog",
    "ray.rllib.core.rl_module.multi_rl_module": "MultiRLModule",
    "ray.rllib.core.rl_module.torch.torch_rl_module": "TorchDDPRLModule",
    "ray.rllib.env.multi_agent_env_runner": "MultiAgentEnvRunner",
    "ray.rllib.env.single_agent_env_runner": "SingleAgentEnvRunner",
    "ray.rllib.evaluation.collectors.simple_list_collector": "SimpleListCollector",
    "ray.rllib.utils.metrics.stats.ema": "EmaStats",
    "ray.rllib.utils.metrics.stats.item": "ItemStats",
    "ray.rllib.utils.metrics.stats.item_series": "ItemSeriesStats",
    "ray.rllib.utils.metrics.stats.lifetime_sum": "LifetimeSumStats",
    "ray.rllib.utils.metrics.stats.max": "MaxStats",
    "ray.rllib.utils.metrics.stats.mean": "MeanStats",
    "ray.rllib.utils.metrics.stats.min": "MinStats",
    "ray.rllib.utils.metrics.stats.percentiles": "PercentilesStats",
    "ray.rllib.utils.metrics.stats.sum": "SumStats",
    "rllib_reciprocator.algorithms.advantage_alignment.advantage_alignment": (
        "AdvantageAlignment AdvantageAlignmentConfig"
    ),
    "rllib_reciprocator.algorithms.advantage_alignment.learner": "AdvantageAlignmentLearner",
    "rllib_reciprocator.algorithms.advantage_alignment.module": "AlignedModule",
    "rllib_reciprocator.algorithms.coala.coala": "COALA COALAConfig",
    "rllib_reciprocator.algorithms.coala.learner": "COALALearner",
    "rllib_reciprocator.algorithms.lio.lio": "LIO LIOConfig",
    "rllib_reciprocator.algorithms.lio.learner": "LIOLearner",
    "rllib_reciprocator.algorithms.reciprocator.reciprocator": "Reciprocator ReciprocatorConfig",
    "rllib_reciprocator.algorithms.shaper.shaper": "Shaper ShaperConfig",
    "rllib_reciprocator.algorithms.shaper.evolved_module": "EvolvedModule",
    "rllib_reciprocator.algorithms.shaper.learner": "ShaperLearner",
    "rllib_reciprocator.engine.config": "BatchedConfig",
    "rllib_reciprocator.engine.env_runner": "BatchedEnvRunner",
    "rllib_reciprocator.engine.learner": "BatchedLearner",
    "rllib_reciprocator.utils.divergence": "DivergenceCallback",
    "rllib_reciprocator.rllib_episodes.algorithms": "APPO APPOConfig IMPALA IMPALAConfig PPO PPOConfig",
    "rllib_reciprocator.rllib_episodes.influence_callback": "EpisodeInfluenceCallback",
    "rllib_reciprocator.rllib_episodes.learners": (
        "PlayersAPPOLearner PlayersIMPALALearner PlayersPPOLearner"
        " RestoringAPPOLearner RestoringIMPALALearner RestoringPPOLearner"
        " ReciprocalAPPOLearner ReciprocalIMPALALearner ReciprocalPPOLearner"
    ),
    "rllib_reciprocator.rllib_episodes.outcomes_callback": "EpisodeOutcomesCallback",
    "rllib_reciprocator.rllib_episodes.rewards_callback": "RewardPerStepCallback",
    "rllib_reciprocator.intrinsic.incentives.incentive_functions": "IncentiveFunctions",
    "rllib_reciprocator.intrinsic.incentives.opponent_models": "OpponentModels",
    "rllib_reciprocator.intrinsic.reciprocity.estimators.counterfactual": "CounterfactualInfluence",
    "rllib_reciprocator.intrinsic.reciprocity.estimators.mixed_reward_model": "MixedRewardModelInfluence",
    "rllib_reciprocator.intrinsic.reciprocity.estimators.own_view": "OwnViewInfluence",
    "rllib_reciprocator.intrinsic.reciprocity.estimators.reward_model": "RewardModelInfluence",
    "rllib_reciprocator.intrinsic.reciprocity.estimators.tabular": "TabularInfluence",
    "rllib_reciprocator.intrinsic.reciprocity.estimators.transition_model": "TransitionInfluence",
    "rllib_reciprocator.intrinsic.reciprocity.estimators.value_model": "ValueInfluence",
    "rllib_reciprocator.models.actor_critic": "ActorCriticModule",
    "rllib_reciprocator.models.default_model": "DefaultModelModule",
    "rllib_reciprocator.models.masked_model": "MaskedAPPOModule MaskedPPOModule",
    "rllib_reciprocator.players.axelrod_strategies": "AxelrodModule",
    "rllib_reciprocator.players.learning": "LearningModule",
    "rllib_reciprocator.players.scripted": "ScriptedModule",
}
# Functions of this package that settings use in functools.partial.
_APPLIED = frozenset(
    {
        ("rllib_reciprocator.engine.config", "_module_of"),
        ("rllib_reciprocator.rllib_episodes.composition", "learner_pieces"),
        ("rllib_reciprocator.rllib_episodes.composition", "runner_pieces"),
        ("rllib_reciprocator.rllib_episodes.modules", "_module_of"),
        ("rllib_reciprocator.rllib_episodes.observations", "preparing"),
        ("rllib_reciprocator.rllib_episodes.observations", "preparing_one"),
        ("rllib_reciprocator.rllib_episodes.reciprocate", "_learner_pieces"),
        ("rllib_reciprocator.rllib_episodes.reciprocate", "_runner_pieces"),
    }
)
# Names that have moved to another module or were renamed since earlier versions. Modules that moved as a whole are in
# moved_modules.py.
_MOVED_NAMES = {
    ("rllib_reciprocator.rllib_episodes.env_spec", "KnownEnvironment"): (
        "rllib_reciprocator.rllib_episodes.env_spec",
        "EnvSpec",
    ),
    ("rllib_reciprocator.algorithms.reciprocator.reciprocator", "_own_module"): (
        "rllib_reciprocator.engine.config",
        "_module_of",
    ),
    ("rllib_reciprocator.callbacks.social_metrics", "SocialMetricsCallback"): (
        "ray.rllib.callbacks.callbacks",
        "RLlibCallback",
    ),
    **{
        (f"rllib_reciprocator.intrinsic.{package}", name): (f"rllib_reciprocator.intrinsic.{package}.settings", name)
        for package, names in {
            "incentives": "IncentiveSettings",
            "reciprocity": "ReciprocitySettings WeightSchedule",
        }.items()
        for name in names.split()
    },
}


def _names(table: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((module, name) for module, names in table.items() for name in names.split())


CALLED, BUILT, NAMED = _names(_CALLED), _names(_BUILT), _names(_NAMED)


@cache
def _look_up(module: str, name: str) -> Any:
    """Returns a listed class or function; None if the installed version of its library does not define it."""
    try:
        value = import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError):
        return None
    return value


class StandIn:
    """Placeholder for a class or function that is not on the list, or for the result of calling it.

    Attributes:
        module: Module of the class or function.
        name: Its qualified name.
        arguments: Arguments of the call; None if the name was only referred to.
    """

    def __init__(self, module: str, name: str, arguments: tuple[Any, ...] | None = None) -> None:
        self.module, self.name, self.arguments = module, name, arguments

    def __str__(self) -> str:
        """Describes the use of the name in the file, for error messages."""
        if by_value := self.class_by_value():
            return f"contains the code of {'.'.join(by_value)}"
        if self.name == "_make_function":
            return "contains the code of a function"
        return f"{'refers to' if self.arguments is None else 'calls'} {self.module}.{self.name}"

    def class_by_value(self) -> tuple[str, str] | None:
        """Returns module and name of a class that cloudpickle has pickled by value; None for anything else."""
        arguments = self.arguments or ()
        if self.name == "_make_skeleton_class" and len(arguments) > 3 and isinstance(arguments[3], dict):
            return str(arguments[3].get("__module__")), str(arguments[1])
        return None


class _Opcodes(dict):
    """Mapping from opcodes to methods that refuses missing opcodes."""

    def __missing__(self, opcode: int) -> NoReturn:
        _refuse(f"it has the opcode {bytes([opcode])!r}, which checkpoints do not have")


# Opcodes that build data of numbers, text, bytes and other data, or write to and read from the memo.
_OF_DATA = (
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "MEMOIZE", "BINGET", "LONG_BINGET", "NONE", "NEWTRUE",
    "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "SHORT_BINBYTES", "BINBYTES",
    "BINBYTES8", "BYTEARRAY8", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "FROZENSET",
)  # fmt: skip
_MAPPINGS = (dict, OrderedDict, defaultdict)


class WeightsUnpickler(pickle._Unpickler):
    """Unpickler of weights, optimizer states and counters: plain data, NumPy arrays and PyTorch tensors.

    Derived from the pure-Python unpickler, whose opcodes are methods. Subclasses of the C unpickler can only decide
    which names are looked up.
    """

    # Attributes and a method of the pure-Python unpickler.
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = _Opcodes(
        {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _OF_DATA}
    )
    functions: ClassVar[Mapping[tuple[str, str], Callable[..., Any]]] = _WEIGHT_FUNCTIONS

    def find_class(self, module: str, name: str) -> Any:
        """Looks up a name.

        Returns:
            A replacement function of this module, a listed class, or the result of :meth:`unlisted`.

        Raises:
            pickle.UnpicklingError: If the name is not on the list.
        """
        if (module, name) in self.functions:
            return self.functions[module, name]
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        return self.unlisted(module, name)

    def unlisted(self, module: str, name: str, arguments: tuple[Any, ...] | None = None) -> Any:
        """Handles a name that is not on the list.

        Args:
            module: Module of the class or function.
            name: Its qualified name.
            arguments: Arguments of the call; None if the name is only referred to.

        Raises:
            pickle.UnpicklingError: Always.
        """
        _refuse(f"it refers to {module}.{name}, {NOT_LISTED}")

    def call(self, target: Any, arguments: Any) -> Any:
        """Calls a listed function and returns its result.

        Raises:
            pickle.UnpicklingError: If the function may not be called.
        """
        if any(target is function for function in self.functions.values()) and type(arguments) is tuple:
            return target(*arguments)
        return self.unlisted(*_name_of(target), arguments)

    def build(self, cls: Any, arguments: Any, keywords: Any) -> Any:
        """Creates an object of a listed class. Pickles of weights need no such class, so that all are refused."""
        return self.unlisted(*_name_of(cls), arguments)

    def set_state(self, instance: Any, state: Any) -> None:
        """Sets the state of an object whose class is listed.

        Raises:
            pickle.UnpicklingError: If the class is not listed, or the object is a class or a function itself.
        """
        if isinstance(instance, np.dtype):
            _set_dtype_state(instance, state)
        elif type(instance) is np.ndarray:
            _set_array_state(instance, state)
        else:
            module, name = _name_of(instance)
            _refuse(f"it changes {module}.{name}, {NOT_LISTED}")

    def _load_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            _refuse("it refers to a class or function by something else than text")
        self.append(self.find_class(module, name))

    def _load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], arguments)

    def _load_newobj(self) -> None:
        arguments, cls = self.stack.pop(), self.stack.pop()
        self.append(self.build(cls, arguments, {}))

    def _load_newobj_ex(self) -> None:
        keywords, arguments, cls = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.append(self.build(cls, arguments, keywords))

    def _load_build(self) -> None:
        state = self.stack.pop()
        self.set_state(self.stack[-1], state)

    def _load_append(self) -> None:
        item = self.stack.pop()
        self._extend([item], (list, deque), "extend")

    def _load_appends(self) -> None:
        self._extend(self.pop_mark(), (list, deque), "extend")

    def _load_additems(self) -> None:
        self._extend(self.pop_mark(), (set,), "update")

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._extend({key: value}, _MAPPINGS, "update")

    def _load_setitems(self) -> None:
        items = self.pop_mark()
        self._extend(dict(zip(items[::2], items[1::2], strict=True)), _MAPPINGS, "update")

    def _extend(self, items: Any, containers: tuple[type, ...], method: str) -> None:
        """Adds items to the container on top of the stack, which has to be of one of the given types."""
        target = self.stack[-1]
        if type(target) in containers:
            getattr(target, method)(items)
        elif not isinstance(target, StandIn):
            _refuse("it adds items to an object that is not a container")

    dispatch.update(
        {
            pickle.STACK_GLOBAL[0]: _load_stack_global,
            pickle.REDUCE[0]: _load_reduce,
            pickle.NEWOBJ[0]: _load_newobj,
            pickle.NEWOBJ_EX[0]: _load_newobj_ex,
            pickle.BUILD[0]: _load_build,
            pickle.APPEND[0]: _load_append,
            pickle.APPENDS[0]: _load_appends,
            pickle.ADDITEMS[0]: _load_additems,
            pickle.SETITEM[0]: _load_setitem,
            pickle.SETITEMS[0]: _load_setitems,
        }
    )


class ConstructorUnpickler(WeightsUnpickler):
    """Unpickler of the constructor arguments of algorithms and modules: settings, specs and spaces.

    Names that are not on the list become a :class:`StandIn`. The pickled code of a class, which is never used, may
    therefore contain any name. The caller has to refuse all other stand-ins.

    Attributes:
        stand_ins: All stand-ins that were created, including those that the file dropped again.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        # Classes and functions that the file has referred to so far; it cannot use any others.
        self._called: list[Any] = []
        self._built: list[Any] = []
        self._applied: list[Any] = []
        self.stand_ins: list[StandIn] = []

    def find_class(self, module: str, name: str) -> Any:
        """Looks up a name; see :meth:`WeightsUnpickler.find_class`."""
        current = new_name(module) or module
        key = _MOVED_NAMES.get((current, name), (current, name))
        if key in self.functions:
            return self.functions[key]
        lists: tuple[tuple[frozenset[tuple[str, str]], list[Any]], ...] = (
            (CALLED, self._called),
            (BUILT, self._built),
            (_APPLIED, self._applied),
            (NAMED, []),
        )
        for names, usable_values in lists:
            if key in names and (value := _look_up(*key)) is not None:
                usable_values.append(value)
                return value
        return self.unlisted(module, name)

    def unlisted(self, module: str, name: str, arguments: tuple[Any, ...] | None = None) -> StandIn:
        """Returns a stand-in for a name that is not on the list, or for a call of it."""
        self.stand_ins.append(StandIn(module, name, arguments))
        return self.stand_ins[-1]

    def call(self, target: Any, arguments: Any) -> Any:
        """Calls a listed function or class; returns a stand-in if the target may not be called."""
        if type(arguments) is tuple:
            if target is _partial:
                return self._apply(*arguments)
            if _is_in(target, self._called):
                return target(*arguments)
        return super().call(target, arguments)

    def build(self, cls: Any, arguments: Any, keywords: Any) -> Any:
        """Creates an object of a listed class without calling its constructor, as pickle does."""
        if _is_in(cls, self._built) and arguments == () and keywords == {}:
            return cls.__new__(cls)
        return self.unlisted(*_name_of(cls), arguments)

    def set_state(self, instance: Any, state: Any) -> None:
        """Sets the state of an object whose class is listed; ignores the state of a stand-in."""
        if isinstance(instance, StandIn):
            return
        if type(instance) is partial:
            self._set_partial_state(instance, state)
        elif type(instance) in (PCG64, Generator, SeedSequence):
            instance.__setstate__(state)
        elif _is_in(type(instance), self._built):
            _set_attributes(instance, state)
        else:
            super().set_state(instance, state)

    def _apply(self, function: Any, *arguments: Any) -> Any:
        """Returns a partial of a listed function; for other functions a stand-in for a call of the function."""
        if arguments or not _is_in(function, self._applied):
            return self.unlisted(*_name_of(function), arguments)
        return partial(function)

    def _set_partial_state(self, instance: partial, state: Any) -> None:
        function, arguments, keywords, attributes = state
        if not _is_in(function, self._applied):
            _refuse(f"it calls {'.'.join(_name_of(function))}, {NOT_LISTED}")
        if type(arguments) is not tuple or type(keywords) is not dict or attributes:
            _refuse("it sets a state of functools.partial that pickle does not write")
        instance.__setstate__((function, arguments, keywords, None))  # type: ignore[attr-defined]


def _partial() -> NoReturn:
    """Marks functools.partial on the unpickler's stack; see :meth:`ConstructorUnpickler.call`."""
    _refuse("it calls functools.partial without a function")


def _is_in(value: Any, values: list[Any]) -> bool:
    return any(value is element for element in values)


def _name_of(target: Any) -> tuple[str, str]:
    """Returns module and name of a class, a function or a stand-in; of the class for any other object."""
    if isinstance(target, StandIn):
        return target.module, target.name
    if not hasattr(target, "__qualname__"):
        target = type(target)
    return str(target.__module__), str(target.__qualname__)


_OF_MODELS = {"__dict__", "__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__"}


def _set_attributes(instance: Any, state: Any) -> None:
    """Sets the attributes of an object of a listed class; they must not replace methods of the class."""
    cls = type(instance)
    if type(state) is not dict:
        _refuse(f"it sets a state of {cls.__module__}.{cls.__qualname__} that pickle does not write")
    if hasattr(cls, "__pydantic_fields__"):
        attributes = state.get("__dict__")
        is_plain = set(state) <= _OF_MODELS and type(attributes) is dict and not state.get("__pydantic_extra__")
        # A name that is not a string is refused by check_attribute().
        attributes = attributes if is_plain else {None: None}
    else:
        attributes = state
    for name in attributes:  # type: ignore[union-attr]
        check_attribute(cls, name)
    if hasattr(cls, "__setstate__"):
        instance.__setstate__(state)
    else:
        vars(instance).update(state)


# Attributes that Tune adds to the settings of a trial.
_OF_TUNE = ("__stdout_file__", "__stderr_file__")
_METHODS = (
    BuiltinFunctionType, FunctionType, MethodDescriptorType, WrapperDescriptorType, classmethod, staticmethod,
)  # fmt: skip


def check_attribute(cls: type, name: Any) -> None:
    """Checks that an attribute of an object does not replace a method of its class.

    Raises:
        pickle.UnpicklingError: If it does, or its name is not a valid or permitted name of an attribute.
    """
    if (
        type(name) is not str
        or not name.isidentifier()
        or (name.startswith("__") and name not in _OF_TUNE)
        or isinstance(getattr_static(cls, name, None), _METHODS)
    ):
        _refuse(f"it changes {cls.__module__}.{cls.__qualname__}.{name}")


# Functions that only ConstructorUnpickler calls.
_CONSTRUCTOR_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    **_WEIGHT_FUNCTIONS,
    ("collections", "defaultdict"): _default_dict,
    ("functools", "partial"): _partial,
    ("numpy.random._pickle", "__bit_generator_ctor"): _bit_generator,
    ("numpy.random._pickle", "__generator_ctor"): _generator,
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"): _seed_sequence,
}
ConstructorUnpickler.functions = _CONSTRUCTOR_FUNCTIONS
