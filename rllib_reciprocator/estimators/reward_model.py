"""Influence from one learned model of what a joint action is worth."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from rllib_reciprocator.estimators.influence_estimator import Transition
from rllib_reciprocator.estimators.regression import RegressionInfluence
from rllib_reciprocator.rewards import Estimates, influence


class RewardModelInfluence(RegressionInfluence):
    """One network for the rewards of all agents under any joint action; counterfactuals as exact expectations.

    ``Rcf_ij(s, a^-j) = sum over a^j of pi_j(a^j | s) R_i(s, (a^j, a^-j))`` takes pi_j from the probabilities with which
    j chose, so that no counterfactual network is needed, and the influence of j averages to zero over j's own choices
    whatever the model's error. All alternatives of all agents are one batch: in the first layer an alternative action
    only adds the difference of two rows of weights.

    Source: Zhou, Hong and Kao (2024), value influence. Differs from the paper's code, which learns a counterfactual
    network for each pair of agents (:class:`CounterfactualInfluence`) and gives it raw action numbers.

    Settings in ``model_config`` beside those of :class:`RegressionInfluence`: ``counterfactual`` (``policy``, or
    ``uniform``: as if j chose each action alike).
    """

    uses_behavior: ClassVar[bool] = True

    def setup(self) -> None:
        """Builds the network."""
        super().setup()
        first, second = self.model_config["hiddens"]
        self.state_layer = nn.Linear(self.num_inputs, first)
        self.action_layer = nn.Linear(self.num_agents * self.num_actions, first, bias=False)
        inner, head = nn.Linear(first, second), nn.Linear(second, self.num_outputs)
        self.inner_layers = nn.Sequential(nn.ReLU(), inner, nn.ReLU(), head)

    def predict(self, transition: Transition) -> Tensor:
        """Of the joint action that was taken, ``[rows, K]``."""
        return self.inner_layers(self.first_layer(transition, self.state_layer, self.action_layer))

    @torch.no_grad()
    def influence(self, transition: Transition, behavior: Tensor | None = None) -> Tensor:
        """What the joint action is worth less its counterfactual, ``[.., N, N]``."""
        leading = transition.actions.shape[:-1]
        flat = transition.flattened()
        worth = self.alternatives_worth(flat)
        if self.model_config["counterfactual"] == "uniform":
            counterfactual = worth.mean(2)
        else:
            assert behavior is not None
            counterfactual = (behavior.flatten(0, len(leading) - 1).unsqueeze(-1) * worth).sum(2)
        of_first = flat.actions[:, :1, None, None].expand(-1, 1, 1, self.num_agents)
        chosen = worth[:, :1].gather(2, of_first)[:, 0, 0]
        return influence(Estimates(chosen, counterfactual)).unflatten(0, leading)

    def alternatives_worth(self, flat: Transition) -> Tensor:
        """What every alternative action of every agent would be worth to all, ``[rows, N, A, N]``."""
        return self.worth(self.inner_layers(self.alternatives(flat, self.state_layer, self.action_layer)))

    def first_layer(self, transition: Transition, state_layer: nn.Linear, action_layer: nn.Linear) -> Tensor:
        """What state, time and the joint action give the first layer, before its activation, ``[rows, hidden]``."""
        return state_layer(self.state_inputs(transition)) + action_layer(self.action_inputs(transition).flatten(1))

    def alternatives(self, flat: Transition, state_layer: nn.Linear, action_layer: nn.Linear) -> Tensor:
        """The same with each action of each agent in the place of the one it took, ``[rows, N, A, hidden]``."""
        by_action = action_layer.weight.t().view(self.num_agents, self.num_actions, -1)
        taken = by_action[torch.arange(self.num_agents, device=by_action.device), flat.actions]
        return self.first_layer(flat, state_layer, action_layer)[:, None, None] - taken[:, :, None] + by_action
