"""Import of classes and functions by path."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def import_attribute(path: str) -> Any:
    """Returns the attribute at ``MODULE:ATTRIBUTE``.

    Raises:
        ImportError: If the module cannot be imported or has no name.
        AttributeError: If the module has no such attribute.
    """
    module, _, attribute = path.partition(":")
    if not module:
        raise ImportError("Empty module name")
    return getattr(import_module(module), attribute)
