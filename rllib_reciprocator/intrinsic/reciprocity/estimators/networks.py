"""Networks of influence estimators, which evaluate alternative actions at low cost."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from rllib_reciprocator.models.stacked import stacked_mlp, uniform


class JointActionNetwork(nn.Module):
    """C stacked networks of inputs and a joint action.

    Alternative actions are evaluated at low cost: in the first layer, an alternative action of one agent only adds the
    difference of two rows of the weights.
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
            copies: C, the number of networks.
            state_layer: First layer of the inputs other than actions, ``[C, rows, inputs]``.
            num_agents: N.
            num_actions: A.
            hiddens: Widths of the hidden layers, at least one.
            outputs: K, the number of outputs.
        """
        super().__init__()
        self.state_layer = state_layer
        self.action_weight = uniform((num_agents * num_actions) ** -0.5, copies, num_agents, num_actions, hiddens[0])
        self.inner_layers = nn.Sequential(nn.ReLU(), *stacked_mlp(copies, [*hiddens, outputs]))

    def forward(self, inputs: Tensor, actions: Tensor) -> Tensor:
        """Computes the outputs for joint actions.

        Args:
            inputs: ``[C, rows, inputs]``.
            actions: ``[C, rows, N]`` int64.

        Returns:
            ``[C, rows, K]``.
        """
        return self.inner_layers(self._first_layer(inputs, actions))

    def alternatives(self, inputs: Tensor, actions: Tensor, agents: Tensor | None = None) -> Tensor:
        """Computes the outputs of every action of an agent in place of the action that it took.

        Args:
            inputs: ``[C, rows, inputs]``.
            actions: ``[C, rows, N]`` int64, the joint actions.
            agents: ``[rows]`` int64, the agent whose actions are replaced in each row; every agent in turn if None.

        Returns:
            ``[C, rows, N, A, K]``, or ``[C, rows, A, K]`` for one agent per row.
        """
        first = self._first_layer(inputs, actions)[:, :, None]
        networks = torch.arange(len(first), device=actions.device)[:, None]
        if agents is None:
            agents = torch.arange(actions.shape[2], device=actions.device)
            contributions = self.action_weight[networks[:, None], agents, actions]
            hidden = (first - contributions)[:, :, :, None] + self.action_weight[:, None]
        else:
            contributions = self.action_weight[networks, agents, actions[:, torch.arange(len(agents)), agents]]
            hidden = first - contributions[:, :, None] + self.action_weight[:, agents]
        return self.inner_layers(hidden.flatten(1, -2)).view(*hidden.shape[:-1], -1)

    def _first_layer(self, inputs: Tensor, actions: Tensor) -> Tensor:
        one_hot = functional.one_hot(actions, self.action_weight.shape[2]).to(inputs.dtype)
        return torch.baddbmm(self.state_layer(inputs), one_hot.flatten(2), self.action_weight.flatten(1, 2))


class MixedActionNetwork(nn.Module):
    """Network of a state and actions encoded as vectors; evaluates alternatives like :class:`JointActionNetwork`."""

    def __init__(self, inputs: int, num_agents: int, action_width: int, hiddens: Sequence[int], outputs: int) -> None:
        """Builds the network.

        Args:
            inputs: Width of the state.
            num_agents: N.
            action_width: Width of the encoding of an action.
            hiddens: Widths of the hidden layers, at least one.
            outputs: K, the number of outputs.
        """
        super().__init__()
        self.state_layer = nn.Linear(inputs, hiddens[0])
        self.action_weight = uniform((num_agents * action_width) ** -0.5, num_agents, action_width, hiddens[0])
        self.inner_layers = nn.Sequential(nn.ReLU(), *stacked_mlp(1, [*hiddens, outputs]))

    def forward(self, state: Tensor, actions: Tensor) -> Tensor:
        """Computes the outputs ``[rows, K]`` for states ``[rows, inputs]`` and actions ``[rows, N, width]``."""
        return self.inner_layers((self.state_layer(state) + self._contributions(actions).sum(1))[None])[0]

    def alternatives(self, state: Tensor, actions: Tensor, options: Tensor) -> Tensor:
        """Computes the outputs of every option of an agent in place of the action that it took.

        Args:
            state: ``[rows, inputs]``.
            actions: ``[rows, N, width]``.
            options: ``[rows, N, options, width]``.

        Returns:
            ``[rows, N, options, K]``.
        """
        contributions = self._contributions(actions)
        context = self.state_layer(state)[:, None] + contributions.sum(1, keepdim=True) - contributions
        hidden = context[:, :, None] + torch.einsum("rnow,nwh->rnoh", options, self.action_weight)
        return self.inner_layers(hidden.flatten(0, 2)[None])[0].view(*hidden.shape[:3], -1)

    def _contributions(self, actions: Tensor) -> Tensor:
        """Computes the contribution of each agent's action to the first layer, ``[rows, N, hidden]``."""
        return torch.einsum("rnw,nwh->rnh", actions, self.action_weight)
