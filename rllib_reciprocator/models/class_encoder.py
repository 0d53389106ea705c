"""What policies and critics have below their heads where observations are maps of classes."""

from __future__ import annotations

from math import prod

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rllib_reciprocator.models.encoder import ACTIVATIONS
from rllib_reciprocator.models.stacked import TwoForms


def num_classes(space: gymnasium.Space) -> int | None:
    """How many classes there are where observations are indices of them: arrays of integers; else None."""
    if not isinstance(space, gymnasium.spaces.Box) or not np.issubdtype(space.dtype, np.integer):
        return None
    return classes_in(space)


def classes_in(space: gymnasium.spaces.Box) -> int:
    """How many classes there are in arrays of their indices."""
    return int(space.high.max()) + 1


class OneHotLinear(TwoForms, nn.Module):
    """A linear layer on one-hot classes that are never written out where nothing is learned, but side by side.

    ``y = bias + sum over cells c of weight[c, class of c]``.
    """

    _offsets: Tensor
    _one_hot: Tensor

    def __init__(self, cells: int, classes: int, outputs: int) -> None:
        """Initialises as ``torch.nn.Linear`` with an input a cell, as many as are not zero.

        Args:
            cells: How many there are.
            classes: Of each cell.
            outputs: Width of what comes out.
        """
        super().__init__()
        bound = cells**-0.5
        self.weight = nn.Parameter(torch.empty(cells * classes, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.register_buffer("_offsets", torch.arange(cells, dtype=torch.int32) * classes, persistent=False)
        self.register_buffer("_one_hot", torch.eye(classes), persistent=False)

    def forward(self, obs: Tensor) -> Tensor:
        """``[rows, *shape]`` integers -> ``[rows, outputs]``."""
        classes = obs.flatten(1).int()
        if self.side_by_side or (torch.is_grad_enabled() and self.weight.requires_grad):
            # The gradient of the sum below is many small additions; that of a product is one large product.
            one_hot = self._one_hot.index_select(0, classes.flatten())
            return torch.addmm(self.bias, one_hot.view(len(classes), -1), self.weight)
        return functional.embedding_bag(classes + self._offsets, self.weight, mode="sum") + self.bias


class Embedding(nn.Embedding):
    """An embedding of a few classes, whose gradient is a product and not many small additions."""

    _one_hot: Tensor

    def __init__(self, classes: int, size: int) -> None:
        """Initialises as ``torch.nn.Embedding``.

        Args:
            classes: How many there are.
            size: Numbers that stand for one.
        """
        super().__init__(classes, size)
        self.register_buffer("_one_hot", torch.eye(classes), persistent=False)

    def forward(self, obs: Tensor) -> Tensor:
        """``[..]`` integers -> ``[.., size]``."""
        if torch.is_grad_enabled() and self.weight.requires_grad:
            return (self._one_hot.index_select(0, obs.flatten().int()) @ self.weight).view(*obs.shape, -1)
        return super().forward(obs.int())


class ClassEncoder(nn.Module):
    """Embeddings of classes and 3x3 convolutions, or a linear layer on one-hot classes; then fully connected layers.

    Attributes:
        width: Of what comes out.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        extra_inputs: int,
        conv_filters: list[int | list[int]],
        embedding_size: int,
        hiddens: list[int],
        activation: str,
    ) -> None:
        """Builds the layers.

        Args:
            shape: Of one observation; ``[rows, columns]`` if there are convolutions.
            classes: How many there are.
            extra_inputs: Numbers that join after the convolutions, or the first layer.
            conv_filters: Output planes of each convolution, or output planes and stride; empty for none.
            embedding_size: Numbers that stand for a class where there are convolutions.
            hiddens: Widths of the fully connected layers; without convolutions at least one.
            activation: Name of the activation after every layer.
        """
        super().__init__()
        act = ACTIVATIONS[activation]
        self.seen: nn.Module
        self.embedding: Embedding | None = None
        connected: list[nn.Module] = []
        if conv_filters:
            planes, (rows, columns) = embedding_size, shape
            layers: list[nn.Module] = []
            for each in conv_filters:
                filters, stride = (each, 1) if isinstance(each, int) else each
                layers += [nn.Conv2d(planes, filters, 3, stride, padding=1), act()]
                planes, rows, columns = filters, (rows - 1) // stride + 1, (columns - 1) // stride + 1
            self.embedding = Embedding(classes, embedding_size)
            self.seen = nn.Sequential(*layers, nn.Flatten())
            self.width = planes * rows * columns + extra_inputs
            self.joining = None
        else:
            if not hiddens:
                raise ValueError("model_config.fcnet_hiddens: maps of classes need a layer, or conv_filters")
            self.seen = OneHotLinear(prod(shape), classes, hiddens[0])
            self.joining = nn.Linear(extra_inputs, hiddens[0], bias=False) if extra_inputs else None
            self.width, hiddens = hiddens[0], hiddens[1:]
            connected.append(act())
        for next_width in hiddens:
            connected += [nn.Linear(self.width, next_width), act()]
            self.width = next_width
        self.connected = nn.Sequential(*connected)

    def forward(self, obs: Tensor, extra: Tensor | None = None) -> Tensor:
        """Observations ``[rows, *shape]`` and ``[rows, extra_inputs]`` -> ``[rows, width]``."""
        if self.embedding is None:
            features = self.seen(obs)
            if self.joining is not None and extra is not None:
                features = features + self.joining(extra)
            return self.connected(features)
        # Embedded, planes are last in memory, which is what convolutions on a CPU like best.
        features = self.seen(self.embedding(obs).permute(0, 3, 1, 2))
        return self.connected(features if extra is None else torch.cat([features, extra], 1))
