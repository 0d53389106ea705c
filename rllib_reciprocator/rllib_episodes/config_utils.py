"""Helper that keeps connectors in an RLlib config from being wrapped twice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any


def given_connector(connector: Callable[..., Any] | None, wrapper: Callable[..., Any] | None = None) -> Any:
    """Returns the function that a user set as connector, without this package's wrappers.

    Args:
        connector: Function that builds the connectors of a config, or None. A wrapped function has the form
            ``partial(wrapper, function, ..)``.
        wrapper: The wrapper to remove. If None, all wrappers of this package are removed.
    """
    while isinstance(connector, partial) and _is(connector.func, wrapper):
        connector = connector.args[0]
    return connector


def _is(function: Callable[..., Any], wrapper: Callable[..., Any] | None) -> bool:
    return function is wrapper or (wrapper is None and function.__module__.startswith(f"{__package__}."))
