"""Influence among agents with different spaces, which may join and leave during an episode."""

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
    """One network from the observations and actions of all agents, encoded as vectors, to the rewards of all agents.

    Like :class:`RewardModelInfluence`, for actions encoded as vectors. The counterfactual value of agent j is the mean
    of the predictions for alternatives to j's action, weighted by their probabilities: for all actions if they can be
    enumerated, else for samples of j's policy. An agent that is absent neither exerts nor receives influence, and its
    rewards are not trained on.

    Settings in ``model_config``: those of :class:`RegressionInfluence`, and ``counterfactual``: ``policy`` or
    ``uniform``, which is uniform over the legal actions, or samples the action space.

    The observation space is :class:`JointSpaces.state`, the action space ``JointSpaces.action``.
    """

    default_uniform_share = DEFAULT_UNIFORM_SHARE

    @classmethod
    def needs_behavior(cls, model_config: Mapping[str, Any]) -> bool:
        """Returns True if counterfactuals are expectations over the players' own policies."""
        return model_config.get("counterfactual", POLICY) == POLICY

    def build_networks(self) -> dict[str, nn.Module]:
        """Builds the reward network."""
        inputs, (n, width) = self.observation_space.shape[0], self.action_space.shape
        return {"reward": MixedActionNetwork(inputs, n, width, self.model_config["hiddens"], n)}

    def setup(self) -> None:
        """Builds the network and, if ``tau`` is below 1, the target network."""
        self.num_agents = self.action_space.shape[0]
        self.build_with_targets()

    @torch.no_grad()
    def influence_among(self, transition: Transition, present: Tensor, options: Tensor, probs: Tensor) -> Influence:
        """Computes the influence of each agent on each agent in these steps.

        Args:
            transition: The steps, ``[rows, ..]``; actions ``[rows, N, width]``.
            present: ``[rows, N]`` bool, True for agents that are present.
            options: ``[rows, N, K, width]``, alternatives to each agent's action.
            probs: ``[rows, N, K]``, probabilities of the alternatives.
        """
        network = cast(MixedActionNetwork, self.target_networks["reward"])
        values = network.alternatives(transition.state, transition.actions, options)
        joint_value = network(transition.state, transition.actions)
        influence = joint_value[:, None] - (probs[..., None] * values).sum(2)
        mask = present[:, :, None] & present[:, None]
        return Influence.agreed(torch.where(mask, influence, 0.0))

    def influence(self, transition: Transition, behavior: Tensor | None = None) -> Influence:
        """Raises NotImplementedError; use :meth:`influence_among`."""
        raise NotImplementedError("use influence_among(): agents with different spaces need alternative actions")

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        return {"reward": self.online["reward"](batch["state"], batch["actions"])}

    def losses(self, batch: dict[str, Tensor], out: dict[str, Tensor]) -> dict[str, Tensor]:
        """Computes the mean squared error of the rewards of agents that are present."""
        mask = batch[PRESENT].float()
        squared_error = (out["reward"] - batch["rewards"]).square()
        return {"loss": (squared_error * mask).sum() / mask.sum().clamp(min=1.0)}
