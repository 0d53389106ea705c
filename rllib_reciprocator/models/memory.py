"""What networks remember: gated recurrent units, and linear ones, whose steps are computed side by side."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rllib_reciprocator.models.stacked import TwoForms

# How strongly a recurrence gate at its most shortens what is remembered, and how much is kept in a step at first.
GATE_STRENGTH, KEPT_AT_FIRST = 8.0, (0.9, 0.999)


class GRUMemory(TwoForms, nn.GRU):
    """A gated recurrent unit; side by side each step is written out, where PyTorch would go from one to the next."""

    def __init__(self, inputs: int, cell: int) -> None:
        """Initialises as ``torch.nn.GRU``.

        Args:
            inputs: Width of features.
            cell: Numbers that are remembered, and width of what comes out.
        """
        super().__init__(inputs, cell, batch_first=True)
        self.width = self.cell = cell

    def over(self, features: Tensor, memory: Tensor | None, is_first: Tensor | None) -> Tensor:
        """What comes out at each step.

        Args:
            features: ``[streams, T, inputs]``.
            memory: ``[streams, cell]`` before the first step; None if every stream is one whole episode.
            is_first: ``[streams, T]`` bool, at which steps it begins empty; not looked at without a memory.

        Returns:
            ``[streams, T, width]``.
        """
        if memory is None or is_first is None:
            return self(features)[0]
        keep, weights = (~is_first).to(features.dtype)[..., None], self.all_weights[0]
        steps = []
        for seen, kept in zip(features.unbind(1), keep.unbind(1), strict=True):
            memory = torch.gru_cell(seen, memory * kept, *weights)
            steps.append(memory)
        return torch.stack(steps, 1)

    def step(self, features: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """One step of each row: ``[rows, inputs]`` and ``[rows, cell]`` to what comes out and the memory after it."""
        cell = written_out if self.side_by_side else torch.gru_cell
        after = cell(features, memory, *self.all_weights[0])
        return after, after


def written_out(
    features: Tensor, memory: Tensor, of_seen: Tensor, of_kept: Tensor, bias_seen: Tensor, bias_kept: Tensor
) -> Tensor:
    """What ``torch.gru_cell`` gives, in operations that have a batched form."""
    seen, kept = functional.linear(features, of_seen, bias_seen), functional.linear(memory, of_kept, bias_kept)
    gates_seen, new_seen = seen.split((2 * memory.shape[-1], memory.shape[-1]), -1)
    gates_kept, new_kept = kept.split((2 * memory.shape[-1], memory.shape[-1]), -1)
    reset, update = (gates_seen + gates_kept).sigmoid().chunk(2, -1)
    return torch.lerp(torch.tanh(new_seen + reset * new_kept), memory, update)


class LinearRecurrentMemory(nn.Module):
    """A residual block around a gated linear recurrent unit, and one of a fully connected layer.

    What is remembered changes as ``h_t = a_t * h_(t-1) + sqrt(1 - a_t^2) * (i_t * x_t)``, where the gates ``a_t`` and
    ``i_t`` are of the features alone. So all steps are computed side by side (:func:`scan`), and long contexts train.

    Source: De et al. (2024), the Hawk block, without its convolution over the last steps. The paper of COALA has one
    such block of 32 units in its policies.
    """

    def __init__(self, inputs: int, cell: int) -> None:
        """Builds the layers.

        Args:
            inputs: Width of features.
            cell: Numbers that are remembered, and width of what comes out.
        """
        super().__init__()
        self.width = self.cell = cell
        self.taken_in = nn.Linear(inputs, cell)
        self.norm = nn.RMSNorm(cell)
        self.branches = nn.Linear(cell, 2 * cell)
        self.gates = nn.Linear(cell, 2 * cell)
        kept = torch.empty(cell).uniform_(*KEPT_AT_FIRST)
        # softplus of it, times the gate, is by how much is forgotten, as a negative logarithm.
        self.forgetting = nn.Parameter((-kept.log() / GATE_STRENGTH).expm1().log())
        self.given_out = nn.Linear(cell, cell)
        self.connected = nn.Sequential(nn.RMSNorm(cell), nn.Linear(cell, cell), nn.GELU(), nn.Linear(cell, cell))
        self.last_norm = nn.RMSNorm(cell)

    def over(self, features: Tensor, memory: Tensor | None, is_first: Tensor | None) -> Tensor:
        """What comes out at each step; see :meth:`GRUMemory.over`."""
        seen, beside, kept, added = self._gated(features)
        if memory is not None and is_first is not None:
            kept = kept * (~is_first).to(kept.dtype)[..., None]
        before = torch.zeros_like(kept[:, 0]) if memory is None else memory
        return self._out(seen, beside, scan(kept, added, before))

    def step(self, features: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """One step of each row; see :meth:`GRUMemory.step`."""
        seen, beside, kept, added = self._gated(features)
        memory = kept * memory + added
        return self._out(seen, beside, memory), memory

    def _gated(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        seen = self.taken_in(features)
        remembered, beside = self.branches(self.norm(seen)).chunk(2, -1)
        recurrence, input_gate = self.gates(remembered).sigmoid().chunk(2, -1)
        log_kept = -GATE_STRENGTH * functional.softplus(self.forgetting) * recurrence
        # sqrt(1 - kept^2), from the logarithm, which is exact where nearly all is kept.
        share = (-torch.expm1(2.0 * log_kept)).clamp(min=1e-12).sqrt()
        return seen, functional.gelu(beside), log_kept.exp(), share * input_gate * remembered

    def _out(self, seen: Tensor, beside: Tensor, memory: Tensor) -> Tensor:
        out = seen + self.given_out(beside * memory)
        return self.last_norm(out + self.connected(out))


def scan(kept: Tensor, added: Tensor, before: Tensor) -> Tensor:
    """The linear recurrence ``h_t = kept_t * h_(t-1) + added_t``.

    In chunks: about twice the root of T operations one after the other, on all chunks at once.

    Args:
        kept: ``[streams, T, cell]``.
        added: Of the same shape.
        before: ``[streams, cell]``, h before the first step.

    Returns:
        ``[streams, T, cell]``, h after each step.
    """
    return _Scan.apply(kept, added, before)


class _Scan(torch.autograd.Function):
    """Computes the recurrence and its gradient, which is the same recurrence backward in time.

    No step's graph is kept. The gradient is computed with :func:`scan` itself and therefore has a gradient too.
    """

    @staticmethod
    def forward(ctx: Any, kept: Tensor, added: Tensor, before: Tensor) -> Tensor:
        after = _in_chunks(kept, added, before)
        ctx.save_for_backward(kept, after, before)
        return after

    @staticmethod
    def backward(ctx: Any, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept, after, before = ctx.saved_tensors
        # What a change after step t brings: its own, and through the next step.
        next_kept = torch.cat([kept[:, 1:], torch.zeros_like(kept[:, :1])], 1)
        brought = scan(next_kept.flip(1), wanted.flip(1), torch.zeros_like(before)).flip(1)
        of_kept = brought * torch.cat([before[:, None], after[:, :-1]], 1)
        return of_kept, brought, kept[:, 0] * brought[:, 0]


def _in_chunks(kept: Tensor, added: Tensor, before: Tensor) -> Tensor:
    """The recurrence of :func:`scan`: within all chunks as if each began empty, then from chunk to chunk."""
    streams, steps, cell = kept.shape
    size = max(1, isqrt(steps))
    chunks = -(-steps // size)
    padding = (0, 0, 0, chunks * size - steps)
    kept, added = (functional.pad(each, padding).view(streams, chunks, size, cell) for each in (kept, added))
    within, product = torch.empty_like(added), torch.empty_like(kept)
    within[:, :, 0], product[:, :, 0] = added[:, :, 0], kept[:, :, 0]
    for t in range(1, size):
        torch.addcmul(added[:, :, t], kept[:, :, t], within[:, :, t - 1], out=within[:, :, t])
        torch.mul(kept[:, :, t], product[:, :, t - 1], out=product[:, :, t])
    starts, start = [], before
    for chunk in range(chunks):
        starts.append(start)
        start = torch.addcmul(within[:, chunk, -1], product[:, chunk, -1], start)
    return torch.addcmul(within, product, torch.stack(starts, 1)[:, :, None]).view(streams, -1, cell)[:, :steps]


def made_memory(inputs: int, config: Mapping[str, Any]) -> GRUMemory | LinearRecurrentMemory | None:
    """The memory that a ``model_config`` asks for, after features of some width; None if it asks for none."""
    if config["use_gru"]:
        return GRUMemory(inputs, config["gru_cell_size"])
    return LinearRecurrentMemory(inputs, config["lru_cell_size"]) if config.get("use_lru") else None
