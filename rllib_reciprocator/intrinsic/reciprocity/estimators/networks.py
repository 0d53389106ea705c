"""Networks of estimators: cheap alternatives to an action."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from rllib_reciprocator.models.stacked import stacked_mlp, uniform


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
        self.action_weight = uniform((num_agents * num_actions) ** -0.5, copies, num_agents, num_actions, hiddens[0])
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
        self.action_weight = uniform((num_agents * action_width) ** -0.5, num_agents, action_width, hiddens[0])
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
