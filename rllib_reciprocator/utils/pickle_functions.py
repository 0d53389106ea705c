"""Functions that unpicklers call in the place of those that a pickle names, and that accept only genuine arguments.

The functions create arrays, tensors, random number generators and containers, and set the states of objects.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from inspect import getattr_static
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, WrapperDescriptorType
from typing import Any, NoReturn

import numpy as np
import torch
from torch.storage import TypedStorage, UntypedStorage

try:  # name of the package since NumPy 2
    from numpy._core import multiarray, numeric
except ImportError:
    from numpy.core import multiarray, numeric  # type: ignore[no-redef]
from numpy.random import PCG64, Generator, SeedSequence
from numpy.random import bit_generator as random_bit_generator

# Option that disables the restrictions.
OPTION = "--trust"
NOT_LISTED = f"which is not on the list; {OPTION} reads it, and runs its code"


def refuse(reason: str) -> NoReturn:
    """Raises UnpicklingError with a reason."""
    raise pickle.UnpicklingError(reason)


def _require(condition: bool, name: str) -> None:
    if not condition:
        refuse(f"it calls {name} with other arguments than {name.partition('.')[0]} writes")


_NUMBER = re.compile(r"b1|[iu][1248]|f[248]|c(8|16)")


def _dtype(*arguments: Any) -> np.dtype:
    """Returns a numeric dtype. Dtypes of objects, or with fields, would interpret bytes of the file as pointers."""
    code = arguments[0] if arguments else None
    is_plain = arguments[1:] == (False, True) and isinstance(code, str) and _NUMBER.fullmatch(code)
    _require(bool(is_plain), "numpy.dtype")
    return np.dtype(*arguments)


def set_dtype_state(dtype: np.dtype, state: object) -> None:
    """Sets the state of a numeric dtype: its byte order."""
    _require(
        isinstance(state, tuple)
        and len(state) == 8
        and type(state[1]) is str
        and state[1] in ("<", ">", "|", "=")
        and state == (3, state[1], None, None, None, -1, -1, 0),
        "numpy.dtype",
    )
    dtype.__setstate__(state)  # type: ignore[attr-defined]


def _is_shape(value: object) -> bool:
    return type(value) is tuple and all(type(size) is int for size in value)


def _array_from_buffer(
    content: object, dtype: object, shape: object, order: object = "C", axis_order: object = None
) -> np.ndarray:
    _require(
        type(content) in (bytes, bytearray)
        and isinstance(dtype, np.dtype)
        and _is_shape(shape)
        and order in ("C", "F", "A", "K")
        and (axis_order is None or _is_shape(axis_order)),
        "numpy._frombuffer",
    )
    return numeric._frombuffer(content, dtype, shape, order, *([] if axis_order is None else [axis_order]))  # type: ignore[attr-defined]


def _empty_array(subtype: object, shape: object, code: object) -> np.ndarray:
    _require(subtype is np.ndarray and shape == (0,) and code in (b"b", "b"), "numpy._reconstruct")
    return multiarray._reconstruct(subtype, shape, code)  # type: ignore[return-value]


def set_array_state(array: np.ndarray, state: Any) -> None:
    """Sets the shape, dtype and content of an empty array."""
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


def _scalar(dtype: object, content: object) -> Any:
    _require(isinstance(dtype, np.dtype) and type(content) is bytes and len(content) == dtype.itemsize, "numpy.scalar")
    return multiarray.scalar(dtype, content)


def _bit_generator(name: object = None) -> PCG64:
    _require(name is PCG64 or name == "PCG64", "numpy.random.__bit_generator_ctor")
    return PCG64(0)


def _generator(bit_generator: Any = None, constructor: object = _bit_generator) -> Generator:
    if bit_generator == "PCG64":
        bit_generator = PCG64(0)
    _require(type(bit_generator) is PCG64 and constructor is _bit_generator, "numpy.random.__generator_ctor")
    return Generator(bit_generator)


def _seed_sequence(*arguments: object) -> SeedSequence:
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


def _tensor(
    storage: object, offset: object, size: Any, stride: Any, requires_grad: object, hooks: object
) -> torch.Tensor:
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


def _parameter(tensor: object, requires_grad: object, hooks: object) -> torch.nn.Parameter:
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


WEIGHT_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
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


def partial_marker() -> NoReturn:
    """Marks functools.partial on the stack of an unpickler, which creates the partial itself."""
    refuse("it calls functools.partial without a function")


# Functions that only ConstructorUnpickler calls.
CONSTRUCTOR_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    **WEIGHT_FUNCTIONS,
    ("collections", "defaultdict"): _default_dict,
    ("functools", "partial"): partial_marker,
    ("numpy.random._pickle", "__bit_generator_ctor"): _bit_generator,
    ("numpy.random._pickle", "__generator_ctor"): _generator,
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"): _seed_sequence,
}


_OF_MODELS = {"__dict__", "__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__"}


def set_attributes(instance: Any, state: object) -> None:
    """Sets the attributes of an object of a listed class; they must not replace methods of the class."""
    cls = type(instance)
    if type(state) is not dict:
        refuse(f"it sets a state of {cls.__module__}.{cls.__qualname__} that pickle does not write")
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


def check_attribute(cls: type, name: object) -> None:
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
        refuse(f"it changes {cls.__module__}.{cls.__qualname__}.{name}")
