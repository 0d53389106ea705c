"""Encoders of policies and critics for observations that are maps of class indices."""

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
    """Returns the number of classes if observations are integer arrays of class indices, else None."""
    if not isinstance(space, gymnasium.spaces.Box) or not np.issubdtype(space.dtype, np.integer):
        return None
    return classes_in(space)


def classes_in(space: gymnasium.spaces.Box) -> int:
    """Returns the number of classes of a space of class indices."""
    return int(space.high.max()) + 1


class OneHotLinear(TwoForms, nn.Module):
    """Linear layer on one-hot encoded classes.

    ``y = bias + sum over cells c of weight[c, class of c]``. One-hot vectors are only built if gradients are needed or
    under ``torch.func.vmap``; otherwise rows of the weights are summed.
    """

    _offsets: Tensor
    _one_hot: Tensor

    def __init__(self, cells: int, classes: int, outputs: int) -> None:
        """Initializes the weights like ``torch.nn.Linear`` with one input per cell, the number of nonzero inputs.

        Args:
            cells: Number of cells.
            classes: Number of classes of each cell.
            outputs: Number of output features.
        """
        super().__init__()
        bound = cells**-0.5
        self.weight = nn.Parameter(torch.empty(cells * classes, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.register_buffer("_offsets", torch.arange(cells, dtype=torch.int32) * classes, persistent=False)
        self.register_buffer("_one_hot", torch.eye(classes), persistent=False)

    def forward(self, obs: Tensor) -> Tensor:
        """Maps integers ``[rows, *shape]`` to ``[rows, outputs]``."""
        classes = obs.flatten(1).int()
        if self.side_by_side or (torch.is_grad_enabled() and self.weight.requires_grad):
            # The gradient of the sum below consists of many small additions; that of a product is one large product.
            one_hot = self._one_hot.index_select(0, classes.flatten())
            return torch.addmm(self.bias, one_hot.view(len(classes), -1), self.weight)
        return functional.embedding_bag(classes + self._offsets, self.weight, mode="sum") + self.bias


class Embedding(nn.Embedding):
    """Embedding of a few classes, whose gradient is computed as one product instead of many small additions."""

    _one_hot: Tensor

    def __init__(self, classes: int, size: int) -> None:
        """Initializes the weights like ``torch.nn.Embedding``.

        Args:
            classes: Number of classes.
            size: Size of the embedding of a class.
        """
        super().__init__(classes, size)
        self.register_buffer("_one_hot", torch.eye(classes), persistent=False)

    def forward(self, obs: Tensor) -> Tensor:
        """Maps integers ``[..]`` to ``[.., size]``."""
        if torch.is_grad_enabled() and self.weight.requires_grad:
            return (self._one_hot.index_select(0, obs.flatten().int()) @ self.weight).view(*obs.shape, -1)
        return super().forward(obs.int())


class ClassEncoder(nn.Module):
    """Embeddings of classes and 3x3 convolutions, or a linear layer on one-hot classes; then fully connected layers.

    Attributes:
        width: Number of output features.
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
            shape: Shape of an observation; ``[rows, columns]`` with convolutions.
            classes: Number of classes.
            extra_inputs: Number of extra features that enter after the convolutions, or in the first layer.
            conv_filters: Output channels, or output channels and stride, of each convolution; empty for none.
            embedding_size: Size of the embedding of a class; only used with convolutions.
            hiddens: Widths of the fully connected layers; at least one without convolutions.
            activation: Name of the activation function after every layer.
        """
        super().__init__()
        act = ACTIVATIONS[activation]
        self.seen: nn.Module
        self.embedding: Embedding | None = None
        fc_layers: list[nn.Module] = []
        if conv_filters:
            planes, (rows, columns) = embedding_size, shape
            layers: list[nn.Module] = []
            for conv in conv_filters:
                filters, stride = (conv, 1) if isinstance(conv, int) else conv
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
            fc_layers.append(act())
        for next_width in hiddens:
            fc_layers += [nn.Linear(self.width, next_width), act()]
            self.width = next_width
        self.connected = nn.Sequential(*fc_layers)

    def forward(self, obs: Tensor, extra: Tensor | None = None) -> Tensor:
        """Maps observations ``[rows, *shape]`` and extra features ``[rows, extra_inputs]`` to ``[rows, width]``."""
        if self.embedding is None:
            features = self.seen(obs)
            if self.joining is not None and extra is not None:
                features = features + self.joining(extra)
            return self.connected(features)
        # Embedded channels are last in memory (channels-last), the fastest layout for convolutions on a CPU.
        features = self.seen(self.embedding(obs).permute(0, 3, 1, 2))
        return self.connected(features if extra is None else torch.cat([features, extra], 1))
