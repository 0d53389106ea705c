"""Stacked networks: several networks with the same layer sizes as one batched computation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


def uniform(bound: float, *shape: int) -> nn.Parameter:
    """Returns a parameter with elements sampled uniformly from ``[-bound, bound]``."""
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


# Maximum number of cells that are expanded to one-hot vectors if gradients are needed: 64 MB with 16 classes.
CELLS_WRITTEN_OUT = 2**20


class TwoForms:
    """Mixin for layers whose fast implementation does not support ``torch.func.vmap`` and that have another one.

    The fast implementation depends on the values of its inputs, or uses operations without a batching rule.

    Attributes:
        side_by_side: If True, uses the implementation that supports vmap.
    """

    side_by_side = False


def compute_side_by_side(network: nn.Module) -> None:
    """Prepares a network for ``torch.func.vmap`` over several sets of parameters."""
    for module in network.modules():
        if isinstance(module, TwoForms):
            module.side_by_side = True


class StackedLinear(nn.Module):
    """Stack of C linear layers, each with its own rows. Initialized like ``torch.nn.Linear``."""

    def __init__(self, copies: int, inputs: int, outputs: int, *, bias: bool = True) -> None:
        """Builds the layers.

        Args:
            copies: Number of layers C.
            inputs: Number of input features of each layer.
            outputs: Number of output features of each layer.
            bias: If True, adds a learnable bias.
        """
        super().__init__()
        self.weight = uniform(inputs**-0.5, copies, inputs, outputs)
        self.bias = uniform(inputs**-0.5, copies, 1, outputs) if bias else None

    def forward(self, rows: Tensor) -> Tensor:
        """Maps ``[C, rows, inputs]`` to ``[C, rows, outputs]``."""
        return torch.bmm(rows, self.weight) if self.bias is None else torch.baddbmm(self.bias, rows, self.weight)


class StackedOneHotLinear(nn.Module):
    """Stack of C linear layers on one-hot encoded classes and further features.

    One-hot vectors are only built if gradients are needed and the batch is small; otherwise rows of the weights are
    summed.
    """

    _offsets: Tensor
    _one_hot: Tensor

    def __init__(self, copies: int, cells: int, classes: int, numbers: int, outputs: int) -> None:
        """Initializes the weights like ``torch.nn.Linear`` with as many inputs as there are nonzero ones.

        Args:
            copies: Number of layers C.
            cells: Number of cells, each of which has a class.
            classes: Number of classes.
            numbers: Number of further features. If it is 0, a separate bias is added.
            outputs: Number of output features of each layer.
        """
        super().__init__()
        self.copies, self.cells = copies, cells
        self.weight = uniform((cells + numbers) ** -0.5, copies * cells * classes, outputs)
        self.numbers = StackedLinear(copies, numbers, outputs) if numbers else None
        if not numbers:
            self.bias = uniform(cells**-0.5, copies, 1, outputs)
        offsets = torch.arange(copies * cells, dtype=torch.int32) * classes
        self.register_buffer("_offsets", offsets.view(copies, 1, cells), persistent=False)
        self.register_buffer("_one_hot", torch.eye(classes), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Maps ``[C, rows, cells + numbers]``, with classes first, to ``[C, rows, outputs]``."""
        offset = self.bias if self.numbers is None else self.numbers(rows[..., self.cells :])
        classes = rows[..., : self.cells].int()
        if torch.is_grad_enabled() and self.weight.requires_grad and classes.numel() <= CELLS_WRITTEN_OUT:
            # The gradient of the sum below consists of many small additions; that of a product is one large product.
            one_hot = self._one_hot.index_select(0, classes.flatten()).view(*classes.shape[:2], -1)
            return torch.bmm(one_hot, self.weight.view(self.copies, -1, self.weight.shape[1])) + offset
        indices = classes + self._offsets
        sums = functional.embedding_bag(indices.flatten(0, 1), self.weight, mode="sum")
        return sums.unflatten(0, indices.shape[:2]) + offset


def stacked_mlp(copies: int, sizes: Sequence[int], *, last_bias: bool = True) -> nn.Sequential:
    """Builds C fully connected networks with ReLU between layers.

    Args:
        copies: Number of networks C.
        sizes: Number of inputs, then number of units of each layer.
        last_bias: If True, the last layer has a bias.
    """
    layers: list[nn.Module] = []
    for num_sizes, (size, next_size) in enumerate(pairwise(sizes), start=2):
        layers += [StackedLinear(copies, size, next_size, bias=last_bias or num_sizes < len(sizes)), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
