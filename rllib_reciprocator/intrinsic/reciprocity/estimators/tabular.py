"""Influence in games whose payoff table is known."""

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
    """Exact rewards from the payoff table; behaviour counted in each state of the game.

    The counterfactual takes agent j's action from the frequencies with which j chose each action in that state over
    the last ``buffer_iterations`` iterations, mixed with a little uniform play. States do not follow from actions
    other than the last, so that the future term of the influence is zero.

    Source: Zhou, Hong and Kao (2024), the matrix games. Differs from the paper's code, where a state that no game
    visited makes the frequency 0/0: here each action of each state also counts as seen ``prior`` times.

    Settings in ``model_config``: ``payoffs`` (nested, ``[A] * N + [N]``), ``buffer_iterations``,
    ``update_period_iters``, ``prior`` (pseudo-counts), ``exploration`` (share of uniform play in the counterfactual).
    """

    counts: Tensor
    table: Tensor
    payoffs: Tensor
    _places: Tensor

    def setup(self) -> None:
        """Builds the tables; behaviour starts out uniform."""
        settings = self.model_config
        payoffs = torch.tensor(settings["payoffs"], dtype=torch.float32)
        num_agents, num_actions = payoffs.dim() - 1, payoffs.shape[0]
        self._num_joint = num_actions**num_agents
        num_states = int(self.observation_space.n)
        entries = num_states * self._num_joint * num_agents**2
        if entries > MAX_TABLE_ENTRIES:
            raise ValueError(
                f"tabular influence needs {entries:,} entries for {num_agents} agents; at most {MAX_TABLE_ENTRIES:,}"
            )
        places = num_actions ** torch.arange(num_agents - 1, -1, -1)
        counts = torch.zeros(settings["buffer_iterations"], num_states, num_agents, num_actions)
        self.register_buffer("payoffs", payoffs, persistent=False)
        self.register_buffer("_places", places, persistent=False)
        self.register_buffer("counts", counts)
        self.register_buffer("table", torch.empty(num_states * self._num_joint, num_agents, num_agents))
        self._tabulate()

    def behavior(self) -> Tensor:
        """The behaviour that counterfactuals are taken under, ``[states, N, A]``; each row sums to 1."""
        counts = self.counts.sum(0) + self.model_config["prior"]
        frequencies = counts / counts.sum(-1, keepdim=True)
        mixed = self.model_config["exploration"]
        return (1.0 - mixed) * frequencies + mixed / frequencies.shape[-1]

    def influence(self, transition: Transition, behavior: Tensor | None = None) -> Influence:
        """Looked up."""
        joint = (transition.actions * self._places).sum(-1)
        return Influence.agreed(self.table[transition.state * self._num_joint + joint])

    def observe(self, transition: Transition, iteration: int) -> dict[str, float]:
        """Counts who did what in which state; every ``update_period_iters``-th iteration renews the table."""
        num_states, num_agents, num_actions = self.counts.shape[1:]
        agents = torch.arange(num_agents, device=self.counts.device)
        cells = (transition.state[:, None] * num_agents + agents) * num_actions + transition.actions
        seen = torch.bincount(cells.flatten(), minlength=num_states * num_agents * num_actions)
        seen = sum_over_learners(seen.to(self.counts.dtype)).view(num_states, num_agents, num_actions)
        self.counts = torch.cat([self.counts[1:], seen[None]])
        if iteration % self.model_config["update_period_iters"] == 0:
            self._tabulate()
        return {"states_visited": float((seen.sum((1, 2)) > 0).float().mean())}

    def _tabulate(self) -> None:
        """Writes the influence of every joint action in every state into the table."""
        behavior = self.behavior()
        num_states, num_agents, _ = behavior.shape
        counterfactuals = []
        for j in range(num_agents):
            expected = torch.tensordot(behavior[:, j], self.payoffs, dims=([1], [j]))
            shape = (num_states, *self.payoffs.shape)
            counterfactuals.append(expected.unsqueeze(1 + j).expand(shape).reshape(num_states, -1, num_agents))
        estimates = Estimates(self.payoffs.view(1, -1, num_agents), torch.stack(counterfactuals, -2))
        self.table = influence(estimates).reshape(-1, num_agents, num_agents)
