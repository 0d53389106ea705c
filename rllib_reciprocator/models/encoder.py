"""What policies and critics have below their heads: circular convolutions, then fully connected layers."""

from __future__ import annotations

from itertools import islice, product
from math import prod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rllib_reciprocator.models.stacked import TwoForms

# Fewer rows cost less to encode than to compare.
MIN_ROWS_TO_COMPARE = 4096

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU, "linear": nn.Identity}


class CircularConvolution(nn.Module):
    """A 3x3 convolution on a torus, as one matrix product.

    The kernel is spread into the matrix that maps all cells of all input planes to all cells of all output planes. On
    the grids of social dilemmas, a few cells wide, that product is several times faster than padding the planes and
    convolving them.
    """

    def __init__(self, in_channels: int, out_channels: int, grid: tuple[int, int]) -> None:
        """Initialises kernel and bias as ``torch.nn.Conv2d`` does.

        Args:
            in_channels: Input planes.
            out_channels: Output planes.
            grid: Height and width.
        """
        super().__init__()
        height, width = grid
        bound = (in_channels * 9) ** -0.5
        self.kernel = nn.Parameter(torch.empty(out_channels, in_channels, 9).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels, 1).uniform_(-bound, bound))
        reached = torch.zeros(9, height * width, height * width)
        for (k, (down, right)), row, column in product(
            enumerate(product((-1, 0, 1), repeat=2)), range(height), range(width)
        ):
            source = (row + down) % height * width + (column + right) % width
            reached[k, row * width + column, source] += 1.0
        self.register_buffer("_reached", reached, persistent=False)

    def forward(self, planes: Tensor) -> Tensor:
        """Flattened planes ``[rows, in_channels * cells]`` -> ``[rows, out_channels * cells]``."""
        matrix = torch.einsum("oik,kpq->opiq", self.kernel, self._reached)
        cells = matrix.shape[1]
        bias = self.bias.expand(-1, cells).reshape(-1)
        return torch.addmm(bias, planes, matrix.reshape(bias.numel(), -1).t())


class DistinctRows(TwoForms, nn.Module):
    """Runs layers once for each distinct row of a large batch; what comes out is the same.

    On a small grid there are a few thousand different observations, which a batch repeats over and over. Rows are told
    apart by a product with fixed random numbers and then compared in full, so that no coincidence goes unnoticed.
    """

    _mark: Tensor

    def __init__(self, layers: nn.Module, width: int) -> None:
        """Wraps layers without batch statistics.

        Args:
            layers: What to run, rows in, rows out.
            width: Of the rows that go in.
        """
        super().__init__()
        self.layers = layers
        mark = torch.rand(width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        self.register_buffer("_mark", mark, persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """``[rows, width]`` -> ``[rows, outputs]``."""
        if self.side_by_side or rows.is_cuda or len(rows) < MIN_ROWS_TO_COMPARE:
            return self.layers(rows)
        marks = (rows.double() @ self._mark).view(torch.int64)
        values, which = marks.unique(return_inverse=True)
        if 2 * len(values) > len(rows):
            return self.layers(rows)
        of_value = which.new_empty(len(values)).scatter_(0, which, torch.arange(len(rows)))
        distinct = rows[of_value]
        if not torch.equal(distinct.index_select(0, which), rows):
            return self.layers(rows)
        return self.layers(distinct).index_select(0, which)


class Encoder(nn.Module):
    """Circular convolutions if there are any, then fully connected layers.

    Attributes:
        width: Of what comes out.
    """

    def __init__(
        self, shape: tuple[int, ...], extra_inputs: int, conv_filters: list[int], hiddens: list[int], activation: str
    ) -> None:
        """Builds the layers.

        Args:
            shape: Of one observation; ``[planes, height, width]`` if there are convolutions.
            extra_inputs: Numbers that join after the convolutions.
            conv_filters: Output planes of each circular 3x3 convolution; empty for none.
            hiddens: Widths of the fully connected layers.
            activation: Name of the activation after every layer.
        """
        super().__init__()
        act = ACTIVATIONS[activation]
        convolutions: list[nn.Module] = []
        planes = shape[0]
        for filters in conv_filters:
            convolutions += [CircularConvolution(planes, filters, (shape[1], shape[2])), act()]
            planes = filters
        self.width = (prod(shape[1:]) * planes if conv_filters else prod(shape)) + extra_inputs
        connected: list[nn.Module] = []
        for next_width in hiddens:
            connected += [nn.Linear(self.width, next_width), act()]
            self.width = next_width
        alone = [*convolutions, *([] if extra_inputs else connected)]
        self.repeated = DistinctRows(nn.Sequential(*alone), prod(shape)) if conv_filters else None
        self.connected = nn.Sequential(*(connected if extra_inputs or not conv_filters else ()))

    def forward(self, obs: Tensor, extra: Tensor | None = None) -> Tensor:
        """Observations ``[rows, *shape]`` and ``[rows, extra_inputs]`` -> ``[rows, width]``."""
        rows = obs.flatten(1)
        if not rows.is_floating_point():  # made numbers of here, where the network runs
            rows = rows.float()
        if self.repeated is not None:
            rows = self.repeated(rows)
        if extra is None:
            return self.connected(rows)
        if not len(self.connected):
            return torch.cat([rows, extra], 1)
        # The first layer in two parts: to put wide rows and a few numbers side by side costs as much as the product.
        first, seen = cast(nn.Linear, self.connected[0]), rows.shape[1]
        hidden = functional.linear(rows, first.weight[:, :seen], first.bias)
        hidden = hidden + functional.linear(extra, first.weight[:, seen:])
        for layer in islice(self.connected, 1, None):  # a slice would build a new module
            hidden = layer(hidden)
        return hidden
