"""An influence estimator for matrix games: the payoff of the joint action minus that if j had acted at random."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rllib_reciprocator.intrinsic.reciprocity.estimators import Influence, InfluenceEstimator, Transition


class PayoffInfluence(InfluenceEstimator):
    """Estimator without parameters that remembers the mean reward of every joint action.

    Its table is a buffer, so that RLlib copies it to the env runners and writes it into checkpoints.
    """

    sums: Tensor

    def setup(self) -> None:
        """Creates an empty table: sums of rewards and number of steps by joint action, ``[A, .., A, N + 1]``."""
        n, actions = self.model_config["num_agents"], int(self.action_space.n)
        self.register_buffer("sums", torch.zeros(*[actions] * n, n + 1))

    def observe(self, transition: Transition, iteration: int) -> dict[str, float]:
        """Adds steps to the table. With several learners, their sums have to be added here."""
        ones = torch.ones_like(transition.rewards[:, :1])
        self.sums.index_put_(
            tuple(transition.actions.unbind(-1)), torch.cat([transition.rewards, ones], -1), accumulate=True
        )
        return {"joint_actions_seen": float((self.sums[..., -1] > 0).sum())}

    def influence(self, transition: Transition, behavior: Tensor | None = None) -> Influence:
        """Computes the influence of each agent on each agent, ``[.., N, N]`` by ``[j, i]``."""
        payoffs = self.sums[..., :-1] / self.sums[..., -1:].clamp(min=1.0)
        actions = tuple(transition.actions.unbind(-1))
        by_influencer = []
        for j in range(len(actions)):
            without_j = payoffs.mean(j, keepdim=True).expand_as(payoffs)
            by_influencer.append((payoffs - without_j)[actions])
        return Influence.agreed(torch.stack(by_influencer, -2))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Raises NotImplementedError: estimators do not act."""
        raise NotImplementedError
