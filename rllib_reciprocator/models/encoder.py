"""Encoders of policies and critics: circular convolutions, then fully connected layers."""

from __future__ import annotations

from itertools import islice, product
from math import prod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rllib_reciprocator.models.stacked import TwoForms

# For fewer rows, encoding all of them is faster than searching for distinct ones.
MIN_ROWS_TO_COMPARE = 4096

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU, "linear": nn.Identity}


class CircularConvolution(nn.Module):
    """3x3 convolution with circular padding, computed as one matrix product.

    The kernel is expanded to the matrix that maps all cells of all input planes to all cells of all output planes. On
    the small grids of social dilemmas this product is several times faster than padding and convolving the planes.
    """

    def __init__(self, in_channels: int, out_channels: int, grid: tuple[int, int]) -> None:
        """Initializes kernel and bias like ``torch.nn.Conv2d``.

        Args:
            in_channels: Number of input planes.
            out_channels: Number of output planes.
            grid: Height and width of the planes.
        """
        super().__init__()
        height, width = grid
        bound = (in_channels * 9) ** -0.5
        self.kernel = nn.Parameter(torch.empty(out_channels, in_channels, 9).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels, 1).uniform_(-bound, bound))
        # For each kernel element and output cell, 1 at the input cell that the element multiplies.
        taps = torch.zeros(9, height * width, height * width)
        for (k, (down, right)), row, column in product(
            enumerate(product((-1, 0, 1), repeat=2)), range(height), range(width)
        ):
            source = (row + down) % height * width + (column + right) % width
            taps[k, row * width + column, source] += 1.0
        self.register_buffer("_reached", taps, persistent=False)

    def forward(self, planes: Tensor) -> Tensor:
        """Maps flattened planes ``[rows, in_channels * cells]`` to ``[rows, out_channels * cells]``."""
        matrix = torch.einsum("oik,kpq->opiq", self.kernel, self._reached)
        cells = matrix.shape[1]
        bias = self.bias.expand(-1, cells).reshape(-1)
        return torch.addmm(bias, planes, matrix.reshape(bias.numel(), -1).t())


class DistinctRows(TwoForms, nn.Module):
    """Runs layers once per distinct row of a large batch; the outputs are the same as without it.

    A small grid has only a few thousand different observations, which occur many times in a batch. Rows are hashed by a
    product with fixed random numbers and then compared in full, so that hash collisions are detected.
    """

    _mark: Tensor

    def __init__(self, layers: nn.Module, width: int) -> None:
        """Wraps layers, which must not use batch statistics.

        Args:
            layers: Module that maps rows to rows.
            width: Number of input features.
        """
        super().__init__()
        self.layers = layers
        mark = torch.rand(width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        self.register_buffer("_mark", mark, persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Maps ``[rows, width]`` to ``[rows, outputs]``."""
        if self.side_by_side or rows.is_cuda or len(rows) < MIN_ROWS_TO_COMPARE:
            return self.layers(rows)
        hashes = (rows.double() @ self._mark).view(torch.int64)
        values, inverse = hashes.unique(return_inverse=True)
        if 2 * len(values) > len(rows):
            return self.layers(rows)
        row_indices = inverse.new_empty(len(values)).scatter_(0, inverse, torch.arange(len(rows)))
        distinct_rows = rows[row_indices]
        if not torch.equal(distinct_rows.index_select(0, inverse), rows):
            return self.layers(rows)
        return self.layers(distinct_rows).index_select(0, inverse)


class Encoder(nn.Module):
    """Optional circular convolutions, then fully connected layers.

    Attributes:
        width: Number of output features.
    """

    def __init__(
        self, shape: tuple[int, ...], extra_inputs: int, conv_filters: list[int], hiddens: list[int], activation: str
    ) -> None:
        """Builds the layers.

        Args:
            shape: Shape of an observation; ``[planes, height, width]`` with convolutions.
            extra_inputs: Number of extra features that are concatenated after the convolutions.
            conv_filters: Output planes of each circular 3x3 convolution; empty for no convolutions.
            hiddens: Widths of the fully connected layers.
            activation: Name of the activation function after every layer.
        """
        super().__init__()
        act = ACTIVATIONS[activation]
        convolutions: list[nn.Module] = []
        planes = shape[0]
        for filters in conv_filters:
            convolutions += [CircularConvolution(planes, filters, (shape[1], shape[2])), act()]
            planes = filters
        self.width = (prod(shape[1:]) * planes if conv_filters else prod(shape)) + extra_inputs
        fc_layers: list[nn.Module] = []
        for next_width in hiddens:
            fc_layers += [nn.Linear(self.width, next_width), act()]
            self.width = next_width
        # Layers that see the observation only can run once per distinct observation.
        obs_layers = [*convolutions, *([] if extra_inputs else fc_layers)]
        self.repeated = DistinctRows(nn.Sequential(*obs_layers), prod(shape)) if conv_filters else None
        self.connected = nn.Sequential(*(fc_layers if extra_inputs or not conv_filters else ()))

    def forward(self, obs: Tensor, extra: Tensor | None = None) -> Tensor:
        """Maps observations ``[rows, *shape]`` and extra features ``[rows, extra_inputs]`` to ``[rows, width]``."""
        rows = obs.flatten(1)
        if not rows.is_floating_point():  # converted on the network's device, so that bytes are transferred
            rows = rows.float()
        if self.repeated is not None:
            rows = self.repeated(rows)
        if extra is None:
            return self.connected(rows)
        if not len(self.connected):
            return torch.cat([rows, extra], 1)
        # Applies the first layer in two parts: concatenating wide rows and a few features costs as much as the product.
        first, num_features = cast(nn.Linear, self.connected[0]), rows.shape[1]
        hidden = functional.linear(rows, first.weight[:, :num_features], first.bias)
        hidden = hidden + functional.linear(extra, first.weight[:, num_features:])
        for layer in islice(self.connected, 1, None):  # slicing a Sequential would build a new module
            hidden = layer(hidden)
        return hidden
