"""Influence from learned models with and without an agent's action: the paper's general form."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from rllib_reciprocator.estimators.influence_estimator import Transition
from rllib_reciprocator.estimators.regression import RegressionInfluence
from rllib_reciprocator.rewards import Estimates, influence


class CounterfactualInfluence(RegressionInfluence):
    """N + 1 networks: one sees all actions, and for each agent j one sees all but j's.

    What the network that does not see a^j predicts is the expectation over j's behaviour in the replay. The networks
    are one batched computation: their weights are stacked, and what a network does not see is zero in its input.

    Source: Zhou, Hong and Kao (2024), value influence with counterfactual networks for reward and future return.
    Differs from the paper's code in one-hot actions, and in that the networks of all agents are trained together.
    """

    def setup(self) -> None:
        """Builds the stacked networks, each layer initialised as ``torch.nn.Linear``."""
        super().setup()
        n = self.num_agents
        inputs = self.num_inputs + n * self.num_actions
        sizes = [inputs, *self.model_config["hiddens"], self.num_outputs]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for size, next_size in pairwise(sizes):
            bound = size**-0.5
            self.weights.append(nn.Parameter(torch.empty(n + 1, size, next_size).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(n + 1, 1, next_size).uniform_(-bound, bound)))
        sees = torch.ones(n + 1, 1, n, 1)
        sees[1 + torch.arange(n), 0, torch.arange(n)] = 0.0
        self.register_buffer("_sees", sees, persistent=False)

    def predict(self, transition: Transition) -> Tensor:
        """Of all networks, ``[N + 1, rows, K]``: first the one that sees all actions, then those without agent j's."""
        state = self.state_inputs(transition).expand(self.num_agents + 1, -1, -1)
        actions = (self.action_inputs(transition) * self._sees).flatten(2)
        hidden = torch.cat([state, actions], 2)
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden.relu() if index else hidden, weight)
        return hidden

    @torch.no_grad()
    def influence(self, transition: Transition, behavior: Tensor | None = None) -> Tensor:
        """What the joint action is worth less what it is worth without j's part in it, ``[.., N, N]``."""
        leading = transition.actions.shape[:-1]
        worth = self.worth(self.predict(transition.flattened()))
        return influence(Estimates(worth[0], worth[1:].transpose(0, 1))).unflatten(0, leading)
