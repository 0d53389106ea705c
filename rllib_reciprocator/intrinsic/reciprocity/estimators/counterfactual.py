"""Influence from learned models with and without an agent's action, the general form of the paper."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import Influence, Transition
from rllib_reciprocator.intrinsic.reciprocity.estimators.regression import RegressionInfluence
from rllib_reciprocator.intrinsic.reciprocity.rules import Estimates, influence


class CounterfactualInfluence(RegressionInfluence):
    """N + 1 networks: one with all actions as inputs, and one per agent j without j's action.

    The network without a^j learns the expectation over j's behavior in the replay buffer. The networks are one batched
    computation: their weights are stacked, and the missing action is zero in the input.

    Source: Zhou, Hong and Kao (2024), value influence with counterfactual networks for reward and future return.
    Differs from the paper's code: actions are one-hot, and the networks of all agents are trained together.
    """

    _sees: Tensor

    def setup(self) -> None:
        """Builds the networks, and the mask of the actions that are inputs of each network."""
        super().setup()
        n = self.num_agents
        sees = torch.ones(n + 1, 1, n, 1)
        sees[1 + torch.arange(n), 0, torch.arange(n)] = 0.0
        self.register_buffer("_sees", sees, persistent=False)

    def build_networks(self) -> dict[str, nn.Module]:
        """Builds all networks, stacked."""
        n = self.num_agents
        outputs = 2 * n if self.regresses_future else n
        return {"reward": self.network(n + 1, outputs, n * self.num_actions)}

    def predict(self, networks: nn.ModuleDict, transition: Transition) -> Tensor:
        """Computes the outputs, ``[N + 1, rows, K]``: of the network with all actions, then of those without a^j."""
        state = self.inputs(transition.state, transition.time_left).expand(self.num_agents + 1, -1, -1)
        actions = functional.one_hot(transition.actions, self.num_actions).float()
        return networks["reward"](torch.cat([state, (actions * self._sees).flatten(2)], 2))

    @torch.no_grad()
    def influence(self, transition: Transition, behavior: Tensor | None = None) -> Influence:
        """Computes the value of the joint action minus its value without agent j's action."""
        leading = transition.actions.shape[:-1]
        values = self.worth(self.predict(self.target_networks, transition.flattened()))
        return Influence.agreed(influence(Estimates(values[0], values[1:].transpose(0, 1))).unflatten(0, leading))

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        return {"reward": self.predict(self.online, Transition.of(batch))}

    def losses(self, batch: dict[str, Tensor], out: dict[str, Tensor]) -> dict[str, Tensor]:
        """Computes the mean squared error of rewards (and returns) of all networks."""
        return {"loss": functional.mse_loss(out["reward"], self.targets(batch).expand_as(out["reward"]))}
