"""Influence in environments with a known payoff table."""

from __future__ import annotations

import torch
from torch import Tensor

from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import (
    Influence,
    InfluenceEstimator,
    Transition,
)
from rllib_reciprocator.intrinsic.reciprocity.rules import Estimates, influence
from rllib_reciprocator.utils.distributed import ParameterlessModule, sum_over_learners

MAX_TABLE_ENTRIES = 20_000_000


class TabularInfluence(ParameterlessModule, InfluenceEstimator):
    """Estimator with exact rewards from the payoff table and action frequencies counted per state.

    The counterfactual marginalizes agent j's action under the frequencies of j's actions in that state over the last
    ``buffer_iterations`` iterations, mixed with a uniform distribution. States depend on the last actions only, so the
    future term of the influence is zero.

    Source: Zhou, Hong and Kao (2024), the matrix games. Differs from the paper's code, in which the frequencies of a
    state that was not visited are 0/0: here ``prior`` is added to the count of each action in each state.

    Settings in ``model_config``: ``payoffs`` (nested, ``[A] * N + [N]``), ``buffer_iterations``,
    ``update_period_iters``, ``prior`` (pseudo-counts), ``exploration`` (share of the uniform distribution in the
    counterfactual).
    """

    counts: Tensor
    table: Tensor
    payoffs: Tensor
    _places: Tensor

    def setup(self) -> None:
        """Builds the tables; the initial behavior is uniform."""
        settings = self.model_config
        payoffs = torch.tensor(settings["payoffs"], dtype=torch.float32)
        num_agents, num_actions = payoffs.dim() - 1, payoffs.shape[0]
        self._num_joint = num_actions**num_agents
        num_states = int(self.observation_space.n)
        entries = num_states * self._num_joint * num_agents**2
        if entries > MAX_TABLE_ENTRIES:
            raise ValueError(
                f"tabular influence needs {entries:,} entries for {num_agents} agents; maximum: {MAX_TABLE_ENTRIES:,}"
            )
        place_values = num_actions ** torch.arange(num_agents - 1, -1, -1)
        counts = torch.zeros(settings["buffer_iterations"], num_states, num_agents, num_actions)
        self.register_buffer("payoffs", payoffs, persistent=False)
        self.register_buffer("_places", place_values, persistent=False)
        self.register_buffer("counts", counts)
        self.register_buffer("table", torch.empty(num_states * self._num_joint, num_agents, num_agents))
        self._tabulate()

    def behavior(self) -> Tensor:
        """Returns the action probabilities of counterfactuals, ``[states, N, A]``; each row sums to 1."""
        counts = self.counts.sum(0) + self.model_config["prior"]
        frequencies = counts / counts.sum(-1, keepdim=True)
        exploration = self.model_config["exploration"]
        return (1.0 - exploration) * frequencies + exploration / frequencies.shape[-1]

    def influence(self, transition: Transition, behavior: Tensor | None = None) -> Influence:
        """Looks up the influence in the table."""
        joint = (transition.actions * self._places).sum(-1)
        return Influence.agreed(self.table[transition.state * self._num_joint + joint])

    def observe(self, transition: Transition, iteration: int) -> dict[str, float]:
        """Counts actions per state, and updates the table in every ``update_period_iters``-th iteration."""
        num_states, num_agents, num_actions = self.counts.shape[1:]
        agents = torch.arange(num_agents, device=self.counts.device)
        cells = (transition.state[:, None] * num_agents + agents) * num_actions + transition.actions
        counts = torch.bincount(cells.flatten(), minlength=num_states * num_agents * num_actions)
        counts = sum_over_learners(counts.to(self.counts.dtype)).view(num_states, num_agents, num_actions)
        self.counts = torch.cat([self.counts[1:], counts[None]])
        if iteration % self.model_config["update_period_iters"] == 0:
            self._tabulate()
        return {"states_visited": float((counts.sum((1, 2)) > 0).float().mean())}

    def _tabulate(self) -> None:
        """Computes the table of the influence of every joint action in every state."""
        behavior = self.behavior()
        num_states, num_agents, _ = behavior.shape
        counterfactuals = []
        for j in range(num_agents):
            expected = torch.tensordot(behavior[:, j], self.payoffs, dims=([1], [j]))
            shape = (num_states, *self.payoffs.shape)
            counterfactuals.append(expected.unsqueeze(1 + j).expand(shape).reshape(num_states, -1, num_agents))
        estimates = Estimates(self.payoffs.view(1, -1, num_agents), torch.stack(counterfactuals, -2))
        self.table = influence(estimates).reshape(-1, num_agents, num_agents)
