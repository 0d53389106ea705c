"""Recurrent memories: gated recurrent units, and linear recurrent units that are computed in parallel over time."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rllib_reciprocator.models.stacked import TwoForms

# Factor of the recurrence gate in the log-decay of linear recurrent units, and range of their initial decay per step
# for a gate of 1.
GATE_STRENGTH, KEPT_AT_FIRST = 8.0, (0.9, 0.999)


class GRUMemory(TwoForms, nn.GRU):
    """Gated recurrent unit, with a form for ``torch.func.vmap``, for which ``torch.gru_cell`` has no batching rule."""

    def __init__(self, inputs: int, cell: int) -> None:
        """Initializes the weights as ``torch.nn.GRU``.

        Args:
            inputs: Number of input features.
            cell: Size of the memory and of the output.
        """
        super().__init__(inputs, cell, batch_first=True)
        self.width = self.cell = cell

    def over(self, features: Tensor, memory: Tensor | None, is_first: Tensor | None) -> Tensor:
        """Computes the outputs of a sequence of steps.

        Args:
            features: ``[streams, T, inputs]``.
            memory: ``[streams, cell]``, memory before the first step; None if every stream is one whole episode.
            is_first: ``[streams, T]`` bool, steps before which the memory is reset; not used if ``memory`` is None.

        Returns:
            Outputs, ``[streams, T, width]``.
        """
        if memory is None or is_first is None:
            return self(features)[0]
        masks, weights = (~is_first).to(features.dtype)[..., None], self.all_weights[0]
        outputs = []
        for inputs, mask in zip(features.unbind(1), masks.unbind(1), strict=True):
            memory = torch.gru_cell(inputs, memory * mask, *weights)
            outputs.append(memory)
        return torch.stack(outputs, 1)

    def step(self, features: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Computes one step of each row, from ``[rows, inputs]`` and ``[rows, cell]`` to the output and the memory."""
        cell = written_out if self.side_by_side else torch.gru_cell
        output = cell(features, memory, *self.all_weights[0])
        return output, output


def written_out(
    features: Tensor, memory: Tensor, of_seen: Tensor, of_kept: Tensor, bias_seen: Tensor, bias_kept: Tensor
) -> Tensor:
    """Computes ``torch.gru_cell`` with operations that support ``torch.func.vmap``.

    Args:
        features: ``[rows, inputs]``.
        memory: ``[rows, cell]``.
        of_seen: Weights of the features.
        of_kept: Weights of the memory.
        bias_seen: Bias of the features.
        bias_kept: Bias of the memory.

    Returns:
        The next memory, ``[rows, cell]``.
    """
    inputs, hidden = functional.linear(features, of_seen, bias_seen), functional.linear(memory, of_kept, bias_kept)
    input_gates, input_candidate = inputs.split((2 * memory.shape[-1], memory.shape[-1]), -1)
    hidden_gates, hidden_candidate = hidden.split((2 * memory.shape[-1], memory.shape[-1]), -1)
    reset, update = (input_gates + hidden_gates).sigmoid().chunk(2, -1)
    return torch.lerp(torch.tanh(input_candidate + reset * hidden_candidate), memory, update)


class LinearRecurrentMemory(nn.Module):
    """Residual block with a gated linear recurrent unit, followed by a residual block with fully connected layers.

    The memory is ``h_t = a_t * h_(t-1) + sqrt(1 - a_t^2) * (i_t * x_t)``, where the gates ``a_t`` and ``i_t`` depend on
    the features only. Therefore all steps are computed in parallel (:func:`scan`), which makes long contexts trainable.

    Source: De et al. (2024), the Hawk block, without its temporal convolution. The policies in the COALA paper have one
    such block of 32 units.
    """

    def __init__(self, inputs: int, cell: int) -> None:
        """Builds the layers.

        Args:
            inputs: Number of input features.
            cell: Size of the memory and of the output.
        """
        super().__init__()
        self.width = self.cell = cell
        self.taken_in = nn.Linear(inputs, cell)
        self.norm = nn.RMSNorm(cell)
        self.branches = nn.Linear(cell, 2 * cell)
        self.gates = nn.Linear(cell, 2 * cell)
        decay = torch.empty(cell).uniform_(*KEPT_AT_FIRST)
        # softplus(forgetting) * GATE_STRENGTH * gate is the negative logarithm of the decay.
        self.forgetting = nn.Parameter((-decay.log() / GATE_STRENGTH).expm1().log())
        self.given_out = nn.Linear(cell, cell)
        self.connected = nn.Sequential(nn.RMSNorm(cell), nn.Linear(cell, cell), nn.GELU(), nn.Linear(cell, cell))
        self.last_norm = nn.RMSNorm(cell)

    def over(self, features: Tensor, memory: Tensor | None, is_first: Tensor | None) -> Tensor:
        """Computes the outputs of a sequence of steps; see :meth:`GRUMemory.over`."""
        inputs, gate, decay, increments = self._gated(features)
        if memory is not None and is_first is not None:
            decay = decay * (~is_first).to(decay.dtype)[..., None]
        initial = torch.zeros_like(decay[:, 0]) if memory is None else memory
        return self._out(inputs, gate, scan(decay, increments, initial))

    def step(self, features: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Computes one step of each row; see :meth:`GRUMemory.step`."""
        inputs, gate, decay, increments = self._gated(features)
        memory = decay * memory + increments
        return self._out(inputs, gate, memory), memory

    def _gated(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inputs = self.taken_in(features)
        recurrent, gate = self.branches(self.norm(inputs)).chunk(2, -1)
        recurrence_gate, input_gate = self.gates(recurrent).sigmoid().chunk(2, -1)
        log_decay = -GATE_STRENGTH * functional.softplus(self.forgetting) * recurrence_gate
        # sqrt(1 - decay^2), computed from the logarithm, which is accurate for a decay close to 1.
        scale = (-torch.expm1(2.0 * log_decay)).clamp(min=1e-12).sqrt()
        return inputs, functional.gelu(gate), log_decay.exp(), scale * input_gate * recurrent

    def _out(self, inputs: Tensor, gate: Tensor, memory: Tensor) -> Tensor:
        out = inputs + self.given_out(gate * memory)
        return self.last_norm(out + self.connected(out))


def scan(kept: Tensor, added: Tensor, before: Tensor) -> Tensor:
    """Computes the linear recurrence ``h_t = kept_t * h_(t-1) + added_t``.

    Works in chunks, all of which are processed at once: about ``2 * sqrt(T)`` sequential operations instead of T.

    Args:
        kept: ``[streams, T, cell]``, decay.
        added: ``[streams, T, cell]``, increments.
        before: ``[streams, cell]``, h before the first step.

    Returns:
        h after each step, ``[streams, T, cell]``.
    """
    return _Scan.apply(kept, added, before)


class _Scan(torch.autograd.Function):
    """Autograd function of the recurrence; its gradient is the same recurrence backward in time.

    The forward pass builds no graph of single steps. The gradient is computed with :func:`scan` and is therefore
    differentiable too.
    """

    @staticmethod
    def forward(ctx: Any, kept: Tensor, added: Tensor, before: Tensor) -> Tensor:
        states = _in_chunks(kept, added, before)
        ctx.save_for_backward(kept, states, before)
        return states

    @staticmethod
    def backward(ctx: Any, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, states, before = ctx.saved_tensors
        # The gradient by h_t is the sum of the output's gradient and that by h_(t+1), which is scaled by kept_(t+1).
        next_decay = torch.cat([decay[:, 1:], torch.zeros_like(decay[:, :1])], 1)
        gradient = scan(next_decay.flip(1), wanted.flip(1), torch.zeros_like(before)).flip(1)
        kept_gradient = gradient * torch.cat([before[:, None], states[:, :-1]], 1)
        return kept_gradient, gradient, decay[:, 0] * gradient[:, 0]


def _in_chunks(kept: Tensor, added: Tensor, before: Tensor) -> Tensor:
    """Computes the recurrence of :func:`scan`: first within all chunks, from zero, then from chunk to chunk."""
    streams, steps, cell = kept.shape
    size = max(1, isqrt(steps))
    chunks = -(-steps // size)
    padding = (0, 0, 0, chunks * size - steps)
    kept, added = (functional.pad(values, padding).view(streams, chunks, size, cell) for values in (kept, added))
    chunk_states, product = torch.empty_like(added), torch.empty_like(kept)
    chunk_states[:, :, 0], product[:, :, 0] = added[:, :, 0], kept[:, :, 0]
    for t in range(1, size):
        torch.addcmul(added[:, :, t], kept[:, :, t], chunk_states[:, :, t - 1], out=chunk_states[:, :, t])
        torch.mul(kept[:, :, t], product[:, :, t - 1], out=product[:, :, t])
    starts, start = [], before
    for chunk in range(chunks):
        starts.append(start)
        start = torch.addcmul(chunk_states[:, chunk, -1], product[:, chunk, -1], start)
    return torch.addcmul(chunk_states, product, torch.stack(starts, 1)[:, :, None]).view(streams, -1, cell)[:, :steps]


def made_memory(inputs: int, config: Mapping[str, Any]) -> GRUMemory | LinearRecurrentMemory | None:
    """Builds the memory of a ``model_config``; returns None if it has none.

    Args:
        inputs: Number of input features.
        config: The ``model_config``.
    """
    if config["use_gru"]:
        return GRUMemory(inputs, config["gru_cell_size"])
    return LinearRecurrentMemory(inputs, config["lru_cell_size"]) if config.get("use_lru") else None
