"""What policies and critics have below their heads: circular convolutions, then fully connected layers."""

from __future__ import annotations

from itertools import product
from math import prod

import torch
from torch import Tensor, nn

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


def encoder(
    shape: tuple[int, ...], extra_inputs: int, conv_filters: list[int], hiddens: list[int], activation: str
) -> tuple[nn.Module, nn.Module, int]:
    """Builds the layers below a head.

    Args:
        shape: Of one observation; ``[planes, height, width]`` if there are convolutions.
        extra_inputs: Numbers that join after the convolutions.
        conv_filters: Output planes of each circular 3x3 convolution; empty for none.
        hiddens: Widths of the fully connected layers.
        activation: Name of the activation after every layer.

    Returns:
        The convolutions (flattened in, flattened out), the fully connected layers, and the width they end with.
    """
    act = ACTIVATIONS[activation]
    convolutions: list[nn.Module] = []
    planes = shape[0]
    for filters in conv_filters:
        convolutions += [CircularConvolution(planes, filters, (shape[1], shape[2])), act()]
        planes = filters
    width = (prod(shape[1:]) * planes if conv_filters else prod(shape)) + extra_inputs
    connected: list[nn.Module] = []
    for next_width in hiddens:
        connected += [nn.Linear(width, next_width), act()]
        width = next_width
    return nn.Sequential(*convolutions), nn.Sequential(*connected), width
