"""Pickles that ask for what genuine ones do not, and a canary that notices if it is done."""

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
    """Unpickling it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def text(value):
    encoded = value.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def data(value):
    return b"B" + len(value).to_bytes(4, "little") + value


def named(module, name):
    return text(module) + text(name) + GLOBAL


def forgeries(module, name, executed):
    """Opcodes, by what they do, that leave one object on the stack.

    Args:
        module: Module of a class.
        name: Its qualified name.
        executed: A file that is there afterwards if an argument was unpickled, run or opened to be written.
    """
    cls, file = named(module, name), text(str(executed))
    nested, command = data(pickle.dumps(Touch(executed))), text(f"touch {executed}")
    state = DICT + text("UNIQUE_CMD") + command + SETITEM + text("path") + file + SETITEM
    instance = cls + EMPTY_TUPLE + NEWOBJ
    context = named("ray.rllib.connectors.connector", "ConnectorContext") + EMPTY_TUPLE + NEWOBJ
    space = named("gymnasium.spaces.discrete", "Discrete") + EMPTY_TUPLE + NEWOBJ
    context += DICT + text("initial_states") + NONE + SETITEM + text("action_space") + space + SETITEM + BUILD
    return {
        "REDUCE of nothing": cls + EMPTY_TUPLE + REDUCE,
        "REDUCE of a path": cls + MARK + file + TUPLE + REDUCE,
        "REDUCE of a context and bytes": cls + MARK + context + nested + TUPLE + REDUCE,
        "REDUCE of settings": cls + MARK + state + TUPLE + REDUCE,
        "NEWOBJ": cls + MARK + file + TUPLE + NEWOBJ,
        "NEWOBJ_EX": cls + EMPTY_TUPLE + state + NEWOBJ_EX,
        "BUILD on an instance": instance + state + BUILD,
        "BUILD of bytes on an instance": instance + nested + BUILD,
        "BUILD on a called class": cls + MARK + context + nested + TUPLE + REDUCE + state + BUILD,
        "BUILD on the class": cls + state + BUILD,
        "BUILD of slots on the class": cls + MARK + NONE + state + TUPLE + BUILD,
    }


def forged_into(genuine, opcodes):
    """A genuine pickle that first does something else, of which nothing is left in what is read."""
    assert genuine[:1] == PROTO[:1]
    return genuine[:2] + opcodes + POP + genuine[2:]


@cache
def rllib_classes():
    """Module and qualified name of every class in RLlib's source, also of nested ones; no module is imported."""
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
    """Fails if anything ran, was written where forgeries write, imported, or changed in a class.

    Args:
        executed: The file that forgeries make.
        imports: If True, nothing of RLlib may be imported meanwhile.
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
    changed = [
        (cls, name)
        for cls, attributes in before.items()
        for name in {*attributes, *vars(cls)}
        if not name.startswith(("__", "_abc"))
        and attributes.get(name) is not vars(cls).get(name)
        # Filled when they are first used.
        and not isinstance(vars(cls).get(name), types.MemberDescriptorType)
    ]
    assert not changed, changed


def _imported_classes():
    prefixes = ("ray.rllib", "rllib_reciprocator", "gymnasium.spaces")
    return {
        value
        for name, module in list(sys.modules.items())
        if name.startswith(prefixes)
        for value in list(vars(module).values())
        if isinstance(value, type) and str(value.__module__).startswith(prefixes)
    }
