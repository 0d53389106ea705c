"""Influence from a learned model of the immediate rewards."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, ClassVar

import torch
from ray.rllib.core.rl_module.apis import SelfSupervisedLossAPI
from torch import Tensor, nn
from torch.nn import functional

from rllib_reciprocator.estimators.influence_estimator import InfluenceEstimator, Transition
from rllib_reciprocator.rewards import Estimates, influence

PREDICTED, TARGET = "predicted_rewards", "rewards"


class RewardModelInfluence(InfluenceEstimator, SelfSupervisedLossAPI):
    """One network for the rewards of all agents under any joint action; counterfactuals as exact expectations.

    ``Rcf_ij(s, a^-j) = sum over a^j of pi_j(a^j | s) R_i(s, (a^j, a^-j))`` takes pi_j from the probabilities with which
    j chose, so that no counterfactual network is needed, and the influence of j averages to zero over j's own choices
    whatever the model's error. All alternatives of all agents are one batch: in the first layer an alternative action
    only adds the difference of two rows of weights.

    Source: Zhou, Hong and Kao (2024), value influence, with its immediate term only: in Coins the future term is
    noisier than what it adds. Differs from the paper's code, which learns a counterfactual network for each pair of
    agents and gives it raw action numbers; here actions are one-hot.

    Settings in ``model_config``: ``num_agents``, ``hiddens`` (two widths), ``counterfactual`` (``policy``, or
    ``uniform``: as if j chose each action alike), ``epochs``, ``minibatch_size``.
    """

    uses_behavior: ClassVar[bool] = True

    def setup(self) -> None:
        """Builds the network."""
        settings = self.model_config
        self.num_agents, self.num_actions = settings["num_agents"], int(self.action_space.n)
        first, second = settings["hiddens"]
        self.state_layer = nn.Linear(prod(self.observation_space.shape) + 1, first)
        self.action_layer = nn.Linear(self.num_agents * self.num_actions, first, bias=False)
        self.inner_layers = nn.Sequential(
            nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, self.num_agents)
        )

    def influence(self, transition: Transition, behavior: Tensor | None = None) -> Tensor:
        """Expected reward less its counterfactual, ``[.., N, N]``."""
        leading = transition.actions.shape[:-1]
        flat = Transition(*(values.flatten(0, len(leading) - 1) for values in transition))
        with torch.no_grad():
            known = self._first_layer(flat)
            by_action = self.action_layer.weight.t().view(self.num_agents, self.num_actions, -1)
            agents = torch.arange(self.num_agents, device=known.device)
            taken = by_action[agents, flat.actions]
            alternatives = known[:, None, None] - taken[:, :, None] + by_action
            values = self.inner_layers(alternatives)
            if self.model_config["counterfactual"] == "uniform" or behavior is None:
                counterfactual = values.mean(2)
            else:
                counterfactual = (behavior.flatten(0, len(leading) - 1).unsqueeze(-1) * values).sum(2)
            chosen = flat.actions[:, :1, None, None].expand(-1, 1, 1, self.num_agents)
            value = values[:, :1].gather(2, chosen)[:, 0, 0]
            return influence(Estimates(value, counterfactual)).unflatten(0, leading)

    def minibatches(self, replay: Transition, generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
        """``epochs`` passes over the replay in random batches."""
        rows = len(replay.actions)
        size = min(self.model_config["minibatch_size"], rows)
        for _ in range(self.model_config["epochs"]):
            order = torch.randperm(rows, generator=generator, device=generator.device).to(replay.actions.device)
            for index in order[: rows - rows % size].view(-1, size):
                yield replay.rows(index)._asdict()

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        transition = Transition(*(batch[name] for name in Transition._fields))
        return {PREDICTED: self.inner_layers(self._first_layer(transition))}

    def compute_self_supervised_loss(
        self, *, learner: Any, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Mean squared error of the predicted rewards."""
        loss = functional.mse_loss(fwd_out[PREDICTED], batch[TARGET])
        learner.metrics.log_value((module_id, "loss"), loss.detach(), window=1)
        return loss

    def _first_layer(self, transition: Transition) -> Tensor:
        """What state, time and the joint action give the first layer, before its activation, ``[rows, hidden]``."""
        state = torch.cat([transition.state.flatten(1), transition.time_left[:, None]], 1)
        actions = functional.one_hot(transition.actions, self.num_actions).flatten(1).to(state.dtype)
        return self.state_layer(state) + self.action_layer(actions)
