"""Restricted unpicklers for checkpoints from untrusted sources.

A pickle is a program: it looks up functions and classes by name, calls them, and modifies objects and classes. The
unpicklers of this module execute the opcodes that build plain data, and of all other opcodes only those that genuine
checkpoints need:

- a function or class is looked up only if its exact name is listed in
  :mod:`rllib_reciprocator.utils.pickle_allow_list`;
- only the functions of :mod:`rllib_reciprocator.utils.pickle_functions` and the classes in ``CALLED`` are called, the
  functions with arguments of the types that NumPy and PyTorch write; all other listed classes may be referred to, e.g.
  in settings, but not called;
- the state of an object is set only if the object's class is listed, and never if it is a class or a function itself.

Opcodes that Python has not written since protocol 4 (2014), persistent ids and the extension codes of ``copyreg`` are
refused.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import import_module
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence

from rllib_reciprocator.utils.moved_modules import new_name
from rllib_reciprocator.utils.pickle_allow_list import APPLIED, BUILT, CALLED, MOVED_NAMES, NAMED
from rllib_reciprocator.utils.pickle_functions import (
    CONSTRUCTOR_FUNCTIONS,
    NOT_LISTED,
    WEIGHT_FUNCTIONS,
    partial_marker,
    refuse,
    set_array_state,
    set_attributes,
    set_dtype_state,
)
from rllib_reciprocator.utils.stand_in import StandIn, name_of


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


class _Opcodes(dict):
    """Mapping from opcodes to methods that refuses missing opcodes."""

    def __missing__(self, opcode: int) -> NoReturn:
        refuse(f"it has the opcode {bytes([opcode])!r}, which checkpoints do not have")


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
    functions: ClassVar[Mapping[tuple[str, str], Callable[..., Any]]] = WEIGHT_FUNCTIONS

    def find_class(self, module: str, name: str) -> Any:
        """Looks up a name.

        Returns:
            A replacement function, a listed class, or the result of :meth:`unlisted`.

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
        refuse(f"it refers to {module}.{name}, {NOT_LISTED}")

    def call(self, target: Any, arguments: Any) -> Any:
        """Calls a listed function and returns its result.

        Raises:
            pickle.UnpicklingError: If the function may not be called.
        """
        if any(target is function for function in self.functions.values()) and type(arguments) is tuple:
            return target(*arguments)
        return self.unlisted(*name_of(target), arguments)

    def build(self, cls: Any, arguments: Any, keywords: object) -> Any:
        """Creates an object of a listed class. Pickles of weights need no such class, so that all are refused."""
        return self.unlisted(*name_of(cls), arguments)

    def set_state(self, instance: Any, state: object) -> None:
        """Sets the state of an object whose class is listed.

        Raises:
            pickle.UnpicklingError: If the class is not listed, or the object is a class or a function itself.
        """
        if isinstance(instance, np.dtype):
            set_dtype_state(instance, state)
        elif type(instance) is np.ndarray:
            set_array_state(instance, state)
        else:
            module, name = name_of(instance)
            refuse(f"it changes {module}.{name}, {NOT_LISTED}")

    def _load_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            refuse("it refers to a class or function by something else than text")
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

    def _extend(self, items: object, containers: tuple[type, ...], method: str) -> None:
        """Adds items to the container on top of the stack, which has to be of one of the given types."""
        target = self.stack[-1]
        if type(target) in containers:
            getattr(target, method)(items)
        elif not isinstance(target, StandIn):
            refuse("it adds items to an object that is not a container")

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

    functions: ClassVar[Mapping[tuple[str, str], Callable[..., Any]]] = CONSTRUCTOR_FUNCTIONS

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
        key = MOVED_NAMES.get((current, name), (current, name))
        if key in self.functions:
            return self.functions[key]
        lists: tuple[tuple[frozenset[tuple[str, str]], list[Any]], ...] = (
            (CALLED, self._called),
            (BUILT, self._built),
            (APPLIED, self._applied),
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
            if target is partial_marker:
                return self._apply(*arguments)
            if _is_in(target, self._called):
                return target(*arguments)
        return super().call(target, arguments)

    def build(self, cls: Any, arguments: Any, keywords: object) -> Any:
        """Creates an object of a listed class without calling its constructor, as pickle does."""
        if _is_in(cls, self._built) and arguments == () and keywords == {}:
            return cls.__new__(cls)
        return self.unlisted(*name_of(cls), arguments)

    def set_state(self, instance: Any, state: object) -> None:
        """Sets the state of an object whose class is listed; ignores the state of a stand-in."""
        if isinstance(instance, StandIn):
            return
        if type(instance) is partial:
            self._set_partial_state(instance, state)
        elif type(instance) in (PCG64, Generator, SeedSequence):
            instance.__setstate__(state)
        elif _is_in(type(instance), self._built):
            set_attributes(instance, state)
        else:
            super().set_state(instance, state)

    def _apply(self, function: Any, *arguments: object) -> Any:
        """Returns a partial of a listed function; for other functions a stand-in for a call of the function."""
        if arguments or not _is_in(function, self._applied):
            return self.unlisted(*name_of(function), arguments)
        return partial(function)

    def _set_partial_state(self, instance: partial, state: Any) -> None:
        function, arguments, keywords, attributes = state
        if not _is_in(function, self._applied):
            refuse(f"it calls {'.'.join(name_of(function))}, {NOT_LISTED}")
        if type(arguments) is not tuple or type(keywords) is not dict or attributes:
            refuse("it sets a state of functools.partial that pickle does not write")
        instance.__setstate__((function, arguments, keywords, None))  # type: ignore[attr-defined]


def _is_in(value: object, values: list[Any]) -> bool:
    return any(value is element for element in values)
