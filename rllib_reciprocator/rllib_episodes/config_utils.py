"""Adding to a configuration of RLlib's what may be there already, so that doing it twice does no harm."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any


def given_connector(connector: Any, wrapper: Callable[..., Any] | None = None) -> Any:
    """What made connectors before a wrapper of ours was put around it.

    Args:
        connector: What makes a configuration's connectors; maybe ``partial(wrapper, before, ..)``.
        wrapper: The wrapper; None for all of this package's.
    """
    while isinstance(connector, partial) and _is(connector.func, wrapper):
        connector = connector.args[0]
    return connector


def _is(function: Callable[..., Any], wrapper: Callable[..., Any] | None) -> bool:
    return function is wrapper or (wrapper is None and function.__module__.startswith(f"{__package__}."))
