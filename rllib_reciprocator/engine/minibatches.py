"""Columns of samples in rows and in streams, as modules and losses take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_reciprocator.engine.sample import state_in
from rllib_reciprocator.models import IS_FIRST


class TakeRows:
    """Takes some rows of a module's columns."""

    def __init__(self, index: Tensor) -> None:
        self.index = index

    def __call__(self, columns: dict[str, Tensor]) -> dict[str, Any]:
        """The rows of the index, as modules take them."""
        return {name: value[self.index] for name, value in columns.items()}


class TakeStreams:
    """Takes some whole streams of the columns of a module with memory."""

    def __init__(self, index: Tensor) -> None:
        self.index = index

    def __call__(self, columns: dict[str, Tensor]) -> dict[str, Any]:
        """The streams of the index, as modules take them."""
        streams, per_stream = len(columns[IS_FIRST]), {IS_FIRST, *memory_columns(columns)}
        split = {
            name: value if name in per_stream else value.unflatten(0, (streams, -1)) for name, value in columns.items()
        }
        return flat_streams({name: value[self.index] for name, value in split.items()})


def memory_columns(columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """The columns of a memory."""
    return {name: value for name, value in columns.items() if name.startswith(f"{Columns.STATE_IN}/")}


def with_state(columns: dict[str, Tensor]) -> dict[str, Any]:
    """Columns as modules take them: the memory as a dict of its own."""
    memory = state_in(columns)
    if not memory:
        return columns
    return {
        **{name: value for name, value in columns.items() if name not in memory_columns(columns)},
        Columns.STATE_IN: memory,
    }


def flat_streams(columns: dict[str, Tensor]) -> dict[str, Any]:
    """Columns ``[streams, T, ..]`` in rows, as modules take them."""
    per_stream = {IS_FIRST, *memory_columns(columns)}
    return with_state({name: value if name in per_stream else value.flatten(0, 1) for name, value in columns.items()})


def compute_in_chunks(compute: Callable[..., Tensor], columns: dict[str, Tensor], size: int) -> Tensor:
    """Values of rows, of so many at once."""
    rows = len(columns[Columns.OBS])
    if rows <= size:
        return compute(columns)
    parts = [{name: value[start : start + size] for name, value in columns.items()} for start in range(0, rows, size)]
    return torch.cat([compute(part) for part in parts])
