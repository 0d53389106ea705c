"""Reads YAML written by users: only plain values, no duplicate keys, and errors that name the line."""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node

from rllib_reciprocator.utils.errors import UserError

MAX_VALUES = 100_000
MAX_LEVELS = 40
_PLAIN = (str, int, float, bool, type(None))


class _PlainLoader(yaml.SafeLoader):
    """Safe loader whose errors name the line.

    It reads 5e-3 as a number, which users write for learning rates. YAML 1.1 reads it as text, because it has no dot.
    """

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """Returns the value of a node, and adds the line to Python exceptions of PyYAML's scalar constructors."""
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:
            text = str(node.value)[:40]
            raise ConstructorError(None, None, f"{text!r} cannot be read ({error})", node.start_mark) from None

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Returns a mapping without duplicate keys. Keys of the mapping override keys of YAML merges (``<<``)."""
        lines: dict[Any, int] = {}
        for key_node, _ in node.value if isinstance(node, MappingNode) else ():
            if key_node.tag == "tag:yaml.org,2002:merge" or not isinstance(key_node.value, str):
                continue
            key, line = (key_node.tag, key_node.value), key_node.start_mark.line + 1
            if key in lines:
                problem = f"{key_node.value!r} is a duplicate key, in lines {lines[key]} and {line}"
                raise ConstructorError(None, None, problem, key_node.start_mark)
            lines[key] = line
        return super().construct_mapping(node, deep)


_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse(text: str, where: str) -> dict[str, Any]:
    """Reads YAML (or JSON, which is YAML) that must be a mapping.

    Args:
        text: The YAML.
        where: The file or option, for messages.

    Raises:
        UserError: If the text is not YAML or not a mapping, if it has duplicate keys, or if it contains anything other
            than mappings with names as keys, lists, text, numbers of at most 64 bits, true, false and null.
    """
    try:
        data = yaml.load(text, Loader=_PlainLoader)  # noqa: S506 -- a safe loader
        if not isinstance(data, dict):
            raise UserError(f"{where}: must be a mapping of keys to values, not {type(data).__name__}")
        _check_plain(data, where, "", {}, 0)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{where}: {line}{getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise UserError(f"{where}: is nested more than {MAX_LEVELS} levels deep") from None
    return data


def _check_plain(value: object, where: str, path: str, sizes: dict[int, int], level: int) -> int:
    """Checks a value and its contents. Returns the number of values, with aliases counted at every occurrence."""
    prefix = f"{where}: {path}: " if path else f"{where}: "
    if level > MAX_LEVELS:
        raise UserError(f"{where}: {path[:60]}..: is nested more than {MAX_LEVELS} levels deep")
    if isinstance(value, dict | list):
        if id(value) not in sizes:
            size = 1
            for key, part in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(value, dict) and not isinstance(key, str | int | float):
                    raise UserError(f"{prefix}{key!r} is not a valid key; put it in quotes")
                size += _check_plain(part, where, f"{path}.{key}" if path else str(key), sizes, level + 1)
            sizes[id(value)] = size
        if sizes[id(value)] > MAX_VALUES:
            raise UserError(f"{prefix}holds more than {MAX_VALUES} values")
        return sizes[id(value)]
    if not isinstance(value, _PLAIN):
        raise UserError(f"{prefix}{str(value)[:40]!r} is a {type(value).__name__}; put it in quotes if it is text")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{prefix}a number of {len(str(value))} digits is too large")
    return 1
