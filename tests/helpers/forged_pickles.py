"""Forged pickles with operations that genuine ones do not contain, and a canary that fails if they are executed."""

import contextlib
import os
import pickle
import re
import sys
import types
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PROTO, STOP = b"\x80\x04", b"."
EMPTY_TUPLE, MARK, TUPLE, DICT, SETITEM = b")", b"(", b"t", b"}", b"s"
GLOBAL, REDUCE, NEWOBJ, NEWOBJ_EX, BUILD, POP, NONE = b"\x93", b"R", b"\x81", b"\x92", b"b", b"0", b"N"


class Touch:
    """Object that creates a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def text(value):
    encoded_text = value.encode()
    return b"X" + len(encoded_text).to_bytes(4, "little") + encoded_text


def data(value):
    return b"B" + len(value).to_bytes(4, "little") + value


def named(module, name):
    return text(module) + text(name) + GLOBAL


def forgeries(module, name, executed):
    """Returns opcodes by description, each of which leaves one object on the stack.

    Args:
        module: Module of a class.
        name: Qualified name of the class.
        executed: File that exists afterwards if an argument was unpickled, executed or opened for writing.
    """
    cls, file = named(module, name), text(str(executed))
    nested_data, command = data(pickle.dumps(Touch(executed))), text(f"touch {executed}")
    state = DICT + text("UNIQUE_CMD") + command + SETITEM + text("path") + file + SETITEM
    instance = cls + EMPTY_TUPLE + NEWOBJ
    context = named("ray.rllib.connectors.connector", "ConnectorContext") + EMPTY_TUPLE + NEWOBJ
    space = named("gymnasium.spaces.discrete", "Discrete") + EMPTY_TUPLE + NEWOBJ
    context += DICT + text("initial_states") + NONE + SETITEM + text("action_space") + space + SETITEM + BUILD
    return {
        "REDUCE of nothing": cls + EMPTY_TUPLE + REDUCE,
        "REDUCE of a path": cls + MARK + file + TUPLE + REDUCE,
        "REDUCE of a context and bytes": cls + MARK + context + nested_data + TUPLE + REDUCE,
        "REDUCE of settings": cls + MARK + state + TUPLE + REDUCE,
        "NEWOBJ": cls + MARK + file + TUPLE + NEWOBJ,
        "NEWOBJ_EX": cls + EMPTY_TUPLE + state + NEWOBJ_EX,
        "BUILD on an instance": instance + state + BUILD,
        "BUILD of bytes on an instance": instance + nested_data + BUILD,
        "BUILD on a called class": cls + MARK + context + nested_data + TUPLE + REDUCE + state + BUILD,
        "BUILD on the class": cls + state + BUILD,
        "BUILD of slots on the class": cls + MARK + NONE + state + TUPLE + BUILD,
    }


def forged_into(genuine, opcodes):
    """Returns a genuine pickle that first executes the opcodes and removes their result from the stack."""
    assert genuine[:1] == PROTO[:1]
    return genuine[:2] + opcodes + POP + genuine[2:]


@cache
def rllib_classes():
    """Returns the module and qualified name of all classes in RLlib's source, nested ones included, without imports."""
    folder = Path(find_spec("ray.rllib").submodule_search_locations[0])
    classes = []
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        module = ".".join(("ray", "rllib", *(part for part in parts if part != "__init__")))
        outer = []
        for indent, name in re.findall(r"^( *)class (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE):
            outer = [*outer[: len(indent) // 4], name]
            classes.append((module, ".".join(outer)))
    return classes


DANGEROUS = {
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "pickle.find_class",
    "os.remove",
    "socket.bind",
}
_watching: list[list[str]] = []


def _audit(event, arguments):
    if _watching and event in DANGEROUS:
        _watching[-1].append(f"{event} {arguments}")


sys.addaudithook(_audit)


@contextlib.contextmanager
def canary(executed, *, imports=True):
    """Fails if a forgery executed code, created its file, imported a module or changed a class.

    Args:
        executed: File that forgeries create.
        imports: If True, no module of RLlib may be imported in the meantime.
    """
    modules = {name for name in sys.modules if name.startswith("ray.rllib")}
    before = {cls: dict(vars(cls)) for cls in _imported_classes()}
    _watching.append([])
    try:
        yield
    finally:
        events = _watching.pop()
    assert not events, events
    assert not executed.exists()
    assert not imports or modules == {name for name in sys.modules if name.startswith("ray.rllib")}
    changed_files = [
        (cls, name)
        for cls, attributes in before.items()
        for name in {*attributes, *vars(cls)}
        if not name.startswith(("__", "_abc"))
        and attributes.get(name) is not vars(cls).get(name)
        # Slot descriptors are filled in on first use.
        and not isinstance(vars(cls).get(name), types.MemberDescriptorType)
    ]
    assert not changed_files, changed_files


def _imported_classes():
    prefixes = ("ray.rllib", "rllib_reciprocator", "gymnasium.spaces")
    return {
        value
        for name, module in list(sys.modules.items())
        if name.startswith(prefixes)
        for value in list(vars(module).values())
        if isinstance(value, type) and str(value.__module__).startswith(prefixes)
    }
