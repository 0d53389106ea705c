"""Rows of modules as losses take them, and minibatches of rows and of whole sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from rllib_reciprocator.engine.rollout_batch import ModuleColumns, RolloutBatch
from rllib_reciprocator.engine.update_rule import UpdateInfo
from rllib_reciprocator.models import IS_FIRST

_STATE_PREFIX = f"{Columns.STATE_IN}/"


class Selector(Protocol):
    """Function that selects a minibatch from a module's columns."""

    def __call__(self, columns: dict[str, Tensor]) -> dict[str, Any]:
        """Returns the columns of the minibatch."""


class TakeRows:
    """Selector of a minibatch of rows from a module's columns."""

    def __init__(self, index: Tensor) -> None:
        self.index = index

    def __call__(self, columns: dict[str, Tensor]) -> dict[str, Any]:
        """Returns the selected rows."""
        return {name: value[self.index] for name, value in columns.items()}


class TakeSequences:
    """Selector of a minibatch of whole sequences from the columns of a recurrent module."""

    def __init__(self, index: Tensor) -> None:
        self.index = index

    def __call__(self, columns: dict[str, Tensor]) -> dict[str, Any]:
        """Returns the selected sequences."""
        sequences, per_sequence = len(columns[IS_FIRST]), {IS_FIRST, *memory_columns(columns)}
        sequence_columns = {
            name: value if name in per_sequence else value.unflatten(0, (sequences, -1))
            for name, value in columns.items()
        }
        return flat_sequences({name: value[self.index] for name, value in sequence_columns.items()})


def flatten_rows(columns: Mapping[str, Tensor], axes: int) -> dict[str, Tensor]:
    """Flattens the first ``axes`` axes of columns to rows."""
    return {name: column.flatten(0, axes - 1) for name, column in columns.items()}


def sequence_columns(batch: RolloutBatch, columns: ModuleColumns) -> dict[str, Tensor]:
    """Returns a recurrent module's columns: its rows, the first steps of episodes, and its initial states.

    Args:
        batch: The rollout.
        columns: Columns of the module, which plays S agents.

    Returns:
        Rows ``[B * S * T, ..]``; per sequence ``is_first [B * S, T]`` and ``state_in/.. [B * S, ..]``.
    """
    num_agents = columns.steps[Columns.OBS].shape[1]
    return {
        **flatten_rows(columns.steps, 3),
        IS_FIRST: batch.is_first.repeat_interleave(num_agents, 0),
        **{f"{_STATE_PREFIX}{name}": column.flatten(0, 1) for name, column in columns.memory_before.items()},
    }


def memory_columns(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Selects the columns of the recurrent state."""
    return {name: value for name, value in columns.items() if name.startswith(_STATE_PREFIX)}


def with_state(columns: dict[str, Tensor]) -> dict[str, Any]:
    """Moves the columns of the recurrent state into a nested dict, as modules take them."""
    state = memory_columns(columns)
    if not state:
        return columns
    rows = {name: value for name, value in columns.items() if name not in state}
    return {**rows, Columns.STATE_IN: {name.removeprefix(_STATE_PREFIX): value for name, value in state.items()}}


def flat_sequences(columns: dict[str, Tensor]) -> dict[str, Any]:
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


def counted_rows(columns: Mapping[str, Tensor]) -> int:
    """Returns the number of a module's rows that count."""
    mask = columns.get(Columns.LOSS_MASK)
    return len(columns[Postprocessing.ADVANTAGES]) if mask is None else int(mask.sum())


def minibatches(
    rows: Mapping[str, dict[str, Any]], num_agents: Mapping[str, int], info: UpdateInfo, generator: torch.Generator
) -> Iterator[dict[str, Selector]]:
    """Yields, for every minibatch, a function per module that selects the minibatch from the module's columns.

    An epoch covers all rows that count, in minibatches whose sizes differ by at most one row. Recurrent modules are
    trained on whole sequences.

    Args:
        rows: Columns by module; recurrent modules have ``is_first``.
        num_agents: Number of agents that each module plays. A module that plays S agents has S times as many rows.
        info: Number of epochs, size of minibatches in environment steps, and whether rows are shuffled.
        generator: Random number generator of the order.
    """
    module_id, columns = next(iter(rows.items()))
    device = columns[Postprocessing.ADVANTAGES].device
    env_steps = len(columns[Postprocessing.ADVANTAGES]) // num_agents[module_id]
    num_minibatches = max(1, round(env_steps / info.minibatch_size)) if info.minibatch_size else 1
    sequences = {module_id: _counted_sequences(columns) for module_id, columns in rows.items()}
    if num_minibatches == 1:
        whole: dict[str, Selector] = {}
        for module_id, indices in sequences.items():
            whole[module_id] = with_state if indices is None else TakeSequences(indices.to(device))
        yield from (whole for _ in range(info.num_epochs))
        return
    for _ in range(info.num_epochs):
        selectors: dict[str, list[Selector]] = {}
        for module_id, columns in rows.items():
            indices, has_memory = sequences[module_id], IS_FIRST in columns
            units = len(columns[IS_FIRST]) if has_memory else len(columns[Postprocessing.ADVANTAGES])
            units = units if indices is None else len(indices)
            order = torch.randperm(units, generator=generator) if info.shuffle else torch.arange(units)
            order = order if indices is None else indices[order]
            chunks = order.to(device).tensor_split(min(num_minibatches, units))
            chunk_selectors: list[Selector] = [TakeSequences(c) if has_memory else TakeRows(c) for c in chunks]
            # A module with fewer units than minibatches repeats them, so that every minibatch has all modules.
            selectors[module_id] = [chunk_selectors[k % len(chunk_selectors)] for k in range(num_minibatches)]
        for k in range(num_minibatches):
            yield {module_id: selector[k] for module_id, selector in selectors.items()}


def _counted_sequences(columns: Mapping[str, Tensor]) -> Tensor | None:
    """Returns the indices of a recurrent module's sequences with at least one step that counts.

    Returns:
        ``[sequences]`` int64 on the CPU; None if all or no sequences have such a step, or without memory.
    """
    mask = columns.get(Columns.LOSS_MASK)
    if mask is None or IS_FIRST not in columns:
        return None
    num_sequences = len(columns[IS_FIRST])
    indices = mask.view(num_sequences, -1).any(1).nonzero()[:, 0].cpu()
    return indices if 0 < len(indices) < num_sequences else None
