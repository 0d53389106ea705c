"""Influence among agents with spaces of their own, who come and go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import Influence, Transition
from rllib_reciprocator.intrinsic.reciprocity.estimators.networks import MixedActionNetwork
from rllib_reciprocator.intrinsic.reciprocity.estimators.regression import RegressionInfluence
from rllib_reciprocator.intrinsic.reciprocity.estimators.reward_model import DEFAULT_UNIFORM_SHARE, POLICY

PRESENT = "present"


class MixedRewardModelInfluence(RegressionInfluence):
    """One network from everybody's observations and actions, as numbers, to the rewards of all.

    As :class:`RewardModelInfluence`, for actions that are given as numbers: the counterfactual of agent j is the mean
    of what is predicted over alternatives to j's action, with their probabilities: all of them where they can be
    counted, else some that are drawn from j's policy. Who is not there has no influence and gets none, and its rewards
    are not learned from.

    Settings in ``model_config``: those of :class:`RegressionInfluence`, and ``counterfactual``: ``policy`` or
    ``uniform``; a uniform choice is one among the legal actions, or a draw from the action space.

    Its observation space is that of :class:`JointSpaces.state`, its action space that of ``JointSpaces.action``.
    """

    default_uniform_share = DEFAULT_UNIFORM_SHARE

    @classmethod
    def needs_behavior(cls, model_config: Mapping[str, Any]) -> bool:
        """Returns whether counterfactuals are expectations over the players' own policies."""
        return model_config.get("counterfactual", POLICY) == POLICY

    def build_networks(self) -> dict[str, nn.Module]:
        """The network."""
        inputs, (n, width) = self.observation_space.shape[0], self.action_space.shape
        return {"reward": MixedActionNetwork(inputs, n, width, self.model_config["hiddens"], n)}

    def setup(self) -> None:
        """Builds the networks, and their copies if there are any."""
        self.num_agents = self.action_space.shape[0]
        self.build_with_targets()

    @torch.no_grad()
    def influence_among(self, transition: Transition, present: Tensor, options: Tensor, probs: Tensor) -> Influence:
        """The influence of each agent on each in these steps.

        Args:
            transition: The steps, ``[rows, ..]``; actions ``[rows, N, width]``.
            present: ``[rows, N]`` bool, who was there.
            options: ``[rows, N, K, width]``, alternatives to each agent's action.
            probs: ``[rows, N, K]``, how likely each was.
        """
        network = cast(MixedActionNetwork, self.target_networks["reward"])
        worth = network.alternatives(transition.state, transition.actions, options)
        chosen = network(transition.state, transition.actions)
        influence = chosen[:, None] - (probs[..., None] * worth).sum(2)
        both = present[:, :, None] & present[:, None]
        return Influence.agreed(torch.where(both, influence, 0.0))

    def influence(self, transition: Transition, behavior: Tensor | None = None) -> Influence:
        """Not available: see :meth:`influence_among`."""
        raise NotImplementedError("influence among agents with spaces of their own is asked of influence_among()")

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        return {"reward": self.online["reward"](batch["state"], batch["actions"])}

    def losses(self, batch: dict[str, Tensor], out: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean squared error of the rewards of who was there."""
        there = batch[PRESENT].float()
        squares = (out["reward"] - batch["rewards"]).square()
        return {"loss": (squares * there).sum() / there.sum().clamp(min=1.0)}
