"""Networks of estimators: several of one shape as one batched computation, and cheap alternatives to an action."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


def _uniform(bound: float, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class StackedLinear(nn.Module):
    """C linear layers side by side, each for rows of its own; initialised as ``torch.nn.Linear``."""

    def __init__(self, copies: int, inputs: int, outputs: int) -> None:
        """Builds the layers.

        Args:
            copies: C.
            inputs: Width of what goes into each.
            outputs: Width of what comes out of each.
        """
        super().__init__()
        self.weight = _uniform(inputs**-0.5, copies, inputs, outputs)
        self.bias = _uniform(inputs**-0.5, copies, 1, outputs)

    def forward(self, rows: Tensor) -> Tensor:
        """``[C, rows, inputs]`` -> ``[C, rows, outputs]``."""
        return torch.baddbmm(self.bias, rows, self.weight)


class StackedOneHotLinear(nn.Module):
    """C linear layers side by side, on classes as if one-hot, which are never written out, and on further numbers."""

    _offsets: Tensor

    def __init__(self, copies: int, cells: int, classes: int, numbers: int, outputs: int) -> None:
        """Initialises as ``torch.nn.Linear`` with as many inputs as are not zero.

        Args:
            copies: C.
            cells: Places with a class each.
            classes: Of each place.
            numbers: How many there are beside the classes.
            outputs: Width of what comes out of each.
        """
        super().__init__()
        self.cells = cells
        self.weight = _uniform((cells + numbers) ** -0.5, copies * cells * classes, outputs)
        self.numbers = StackedLinear(copies, numbers, outputs)
        offsets = torch.arange(copies * cells, dtype=torch.int32) * classes
        self.register_buffer("_offsets", offsets.view(copies, 1, cells), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """``[C, rows, cells + numbers]``, classes first -> ``[C, rows, outputs]``."""
        at = rows[..., : self.cells].int() + self._offsets
        of_classes = functional.embedding_bag(at.flatten(0, 1), self.weight, mode="sum")
        return of_classes.unflatten(0, at.shape[:2]) + self.numbers(rows[..., self.cells :])


def stacked_mlp(copies: int, sizes: Sequence[int]) -> nn.Sequential:
    """C networks of that many units a layer, inputs first, with ReLU between."""
    layers: list[nn.Module] = []
    for size, next_size in pairwise(sizes):
        layers += [StackedLinear(copies, size, next_size), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class JointActionNetwork(nn.Module):
    """C networks from inputs and a joint action.

    What they would say of other actions costs little: in the first layer an alternative action of one agent only
    adds the difference of two rows of weights.
    """

    def __init__(
        self,
        copies: int,
        state_layer: nn.Module,
        num_agents: int,
        num_actions: int,
        hiddens: Sequence[int],
        outputs: int,
    ) -> None:
        """Builds the networks.

        Args:
            copies: C.
            state_layer: The first layer of what goes in beside the actions, ``[C, rows, inputs]``.
            num_agents: N.
            num_actions: A.
            hiddens: Widths of the hidden layers, at least one.
            outputs: K.
        """
        super().__init__()
        self.state_layer = state_layer
        self.action_weight = _uniform((num_agents * num_actions) ** -0.5, copies, num_agents, num_actions, hiddens[0])
        self.inner_layers = nn.Sequential(nn.ReLU(), *stacked_mlp(copies, [*hiddens, outputs]))

    def forward(self, inputs: Tensor, actions: Tensor) -> Tensor:
        """What is said of joint actions.

        Args:
            inputs: ``[C, rows, inputs]``.
            actions: ``[C, rows, N]`` int64.

        Returns:
            ``[C, rows, K]``.
        """
        return self.inner_layers(self._first_layer(inputs, actions))

    def alternatives(self, inputs: Tensor, actions: Tensor, agents: Tensor | None = None) -> Tensor:
        """What would be said with each action of an agent in the place of the one it took.

        Args:
            inputs: ``[C, rows, inputs]``.
            actions: ``[C, rows, N]`` int64, the joint actions.
            agents: ``[rows]`` int64, whose alternatives; of all agents if None.

        Returns:
            ``[C, rows, N, A, K]``, or ``[C, rows, A, K]`` of one agent a row.
        """
        first = self._first_layer(inputs, actions)[:, :, None]
        copies = torch.arange(len(first), device=actions.device)[:, None]
        if agents is None:
            agents = torch.arange(actions.shape[2], device=actions.device)
            taken = self.action_weight[copies[:, None], agents, actions]
            hidden = (first - taken)[:, :, :, None] + self.action_weight[:, None]
        else:
            taken = self.action_weight[copies, agents, actions[:, torch.arange(len(agents)), agents]]
            hidden = first - taken[:, :, None] + self.action_weight[:, agents]
        return self.inner_layers(hidden.flatten(1, -2)).view(*hidden.shape[:-1], -1)

    def _first_layer(self, inputs: Tensor, actions: Tensor) -> Tensor:
        one_hot = functional.one_hot(actions, self.action_weight.shape[2]).to(inputs.dtype)
        return torch.baddbmm(self.state_layer(inputs), one_hot.flatten(2), self.action_weight.flatten(1, 2))


class MixedActionNetwork(nn.Module):
    """A network from a state and actions that are given as numbers; alternatives cost little, as above."""

    def __init__(self, inputs: int, num_agents: int, action_width: int, hiddens: Sequence[int], outputs: int) -> None:
        """Builds the network.

        Args:
            inputs: Width of the state.
            num_agents: N.
            action_width: Numbers in an action.
            hiddens: Widths of the hidden layers, at least one.
            outputs: K.
        """
        super().__init__()
        self.state_layer = nn.Linear(inputs, hiddens[0])
        self.action_weight = _uniform((num_agents * action_width) ** -0.5, num_agents, action_width, hiddens[0])
        self.inner_layers = nn.Sequential(nn.ReLU(), *stacked_mlp(1, [*hiddens, outputs]))

    def forward(self, state: Tensor, actions: Tensor) -> Tensor:
        """``[rows, inputs]`` and ``[rows, N, width]`` -> ``[rows, K]``."""
        return self.inner_layers((self.state_layer(state) + self._contributions(actions).sum(1))[None])[0]

    def alternatives(self, state: Tensor, actions: Tensor, options: Tensor) -> Tensor:
        """What would be said with each option of an agent in the place of the action it took.

        Args:
            state: ``[rows, inputs]``.
            actions: ``[rows, N, width]``.
            options: ``[rows, N, options, width]``.

        Returns:
            ``[rows, N, options, K]``.
        """
        taken = self._contributions(actions)
        others = self.state_layer(state)[:, None] + taken.sum(1, keepdim=True) - taken
        hidden = others[:, :, None] + torch.einsum("rnow,nwh->rnoh", options, self.action_weight)
        return self.inner_layers(hidden.flatten(0, 2)[None])[0].view(*hidden.shape[:3], -1)

    def _contributions(self, actions: Tensor) -> Tensor:
        """What each agent's action adds to the first layer, ``[rows, N, hidden]``."""
        return torch.einsum("rnw,nwh->rnh", actions, self.action_weight)
