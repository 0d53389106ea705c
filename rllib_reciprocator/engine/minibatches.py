"""Minibatches of rows and of whole sequences, in the form that modules and losses take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_reciprocator.engine.sample import state_in
from rllib_reciprocator.models import IS_FIRST


class TakeRows:
    """Selector of a minibatch of rows from a module's columns."""

    def __init__(self, index: Tensor) -> None:
        self.index = index

    def __call__(self, columns: dict[str, Tensor]) -> dict[str, Any]:
        """Returns the selected rows."""
        return {name: value[self.index] for name, value in columns.items()}


class TakeStreams:
    """Selector of a minibatch of whole sequences from the columns of a recurrent module."""

    def __init__(self, index: Tensor) -> None:
        self.index = index

    def __call__(self, columns: dict[str, Tensor]) -> dict[str, Any]:
        """Returns the selected sequences."""
        sequences, per_sequence = len(columns[IS_FIRST]), {IS_FIRST, *memory_columns(columns)}
        unflattened = {
            name: value if name in per_sequence else value.unflatten(0, (sequences, -1))
            for name, value in columns.items()
        }
        return flat_streams({name: value[self.index] for name, value in unflattened.items()})


def memory_columns(columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """Selects the columns of the recurrent state."""
    return {name: value for name, value in columns.items() if name.startswith(f"{Columns.STATE_IN}/")}


def with_state(columns: dict[str, Tensor]) -> dict[str, Any]:
    """Moves the columns of the recurrent state into a nested dict, as modules take them."""
    state = state_in(columns)
    if not state:
        return columns
    return {
        **{name: value for name, value in columns.items() if name not in memory_columns(columns)},
        Columns.STATE_IN: state,
    }


def flat_streams(columns: dict[str, Tensor]) -> dict[str, Any]:
    """Flattens columns of sequences ``[sequences, T, ..]`` to rows, as modules take them."""
    per_seq = {IS_FIRST, *memory_columns(columns)}
    return with_state({name: value if name in per_seq else value.flatten(0, 1) for name, value in columns.items()})


def compute_in_chunks(compute: Callable[..., Tensor], columns: dict[str, Tensor], size: int) -> Tensor:
    """Computes the values of rows in chunks, to bound the memory use.

    Args:
        compute: Maps columns of rows to values, ``[rows, ..]``.
        columns: Columns of rows, with observations.
        size: Maximum number of rows per chunk.
    """
    rows = len(columns[Columns.OBS])
    if rows <= size:
        return compute(columns)
    chunks = [{name: value[start : start + size] for name, value in columns.items()} for start in range(0, rows, size)]
    return torch.cat([compute(chunk) for chunk in chunks])
