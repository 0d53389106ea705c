"""Several networks of one shape as one batched computation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


def uniform(bound: float, *shape: int) -> nn.Parameter:
    """A parameter of that shape, drawn evenly up to a bound on either side of zero."""
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


# So many one-hot classes are written out where a gradient is wanted: with 16 of them, 64 MB.
CELLS_WRITTEN_OUT = 2**20


class TwoForms:
    """Mixed into layers whose fast form looks at values or has no batched form: they have one of these beside it.

    Attributes:
        side_by_side: Whether it is computed in that form.
    """

    side_by_side = False


def compute_side_by_side(network: nn.Module) -> None:
    """Prepares a network to be computed with the parameters of many at once, by ``torch.func.vmap``."""
    for module in network.modules():
        if isinstance(module, TwoForms):
            module.side_by_side = True


class StackedLinear(nn.Module):
    """C linear layers side by side, each for rows of its own; initialised as ``torch.nn.Linear``."""

    def __init__(self, copies: int, inputs: int, outputs: int, *, bias: bool = True) -> None:
        """Builds the layers.

        Args:
            copies: C.
            inputs: Width of what goes into each.
            outputs: Width of what comes out of each.
            bias: Whether a bias is added.
        """
        super().__init__()
        self.weight = uniform(inputs**-0.5, copies, inputs, outputs)
        self.bias = uniform(inputs**-0.5, copies, 1, outputs) if bias else None

    def forward(self, rows: Tensor) -> Tensor:
        """``[C, rows, inputs]`` -> ``[C, rows, outputs]``."""
        return torch.bmm(rows, self.weight) if self.bias is None else torch.baddbmm(self.bias, rows, self.weight)


class StackedOneHotLinear(nn.Module):
    """C linear layers side by side, on classes as if one-hot, which are seldom written out, and on further numbers."""

    _offsets: Tensor
    _one_hot: Tensor

    def __init__(self, copies: int, cells: int, classes: int, numbers: int, outputs: int) -> None:
        """Initialises as ``torch.nn.Linear`` with as many inputs as are not zero.

        Args:
            copies: C.
            cells: Places with a class each.
            classes: Of each place.
            numbers: How many there are beside the classes; a bias if there are none.
            outputs: Width of what comes out of each.
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
        """``[C, rows, cells + numbers]``, classes first -> ``[C, rows, outputs]``."""
        others = self.bias if self.numbers is None else self.numbers(rows[..., self.cells :])
        classes = rows[..., : self.cells].int()
        if torch.is_grad_enabled() and self.weight.requires_grad and classes.numel() <= CELLS_WRITTEN_OUT:
            # The gradient of the sum below is many small additions; that of a product is one large product.
            one_hot = self._one_hot.index_select(0, classes.flatten()).view(*classes.shape[:2], -1)
            return torch.bmm(one_hot, self.weight.view(self.copies, -1, self.weight.shape[1])) + others
        at = classes + self._offsets
        of_classes = functional.embedding_bag(at.flatten(0, 1), self.weight, mode="sum")
        return of_classes.unflatten(0, at.shape[:2]) + others


def stacked_mlp(copies: int, sizes: Sequence[int], *, last_bias: bool = True) -> nn.Sequential:
    """C networks of that many units a layer, inputs first, with ReLU between; the last layer with a bias or without."""
    layers: list[nn.Module] = []
    for number, (size, next_size) in enumerate(pairwise(sizes), start=2):
        layers += [StackedLinear(copies, size, next_size, bias=last_bias or number < len(sizes)), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
