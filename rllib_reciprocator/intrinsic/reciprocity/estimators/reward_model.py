"""Influence from a learned model of the values of joint actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import Influence, Transition
from rllib_reciprocator.intrinsic.reciprocity.estimators.regression import RegressionInfluence, cross_entropy
from rllib_reciprocator.intrinsic.reciprocity.rules import Estimates, influence

POLICY, MODELLED, UNIFORM = "policy", "modelled", "uniform"
# With this share a deterministic defector has influence, so that Reciprocators respond to it; in Coins they also learn
# to cooperate sooner.
DEFAULT_UNIFORM_SHARE = 0.3


class RewardModelInfluence(RegressionInfluence):
    """One network for the rewards of all agents under any joint action, with exact counterfactual expectations.

    ``Rcf_ij(s, a^-j) = sum over a^j of pi_j(a^j | s) R_i(s, (a^j, a^-j))``, where pi_j are the action probabilities of
    j's policy. No counterfactual network is needed, and the expected influence of j under its own policy is zero,
    whatever the error of the model. All alternative actions of all agents are evaluated as one batch.

    Source: Zhou, Hong and Kao (2024), value influence. Differs from the paper's code, which learns a counterfactual
    network for each pair of agents (:class:`CounterfactualInfluence`), with action indices as inputs.

    Settings in ``model_config`` in addition to those of :class:`RegressionInfluence`:

    - ``counterfactual``: source of pi_j. ``policy``: the action probabilities of j's policy. ``modelled``: a second
      network that predicts the actions of each agent, for players that do not report probabilities. ``uniform``: a
      uniform distribution.
    - ``uniform_share``: share of the uniform distribution that is mixed into the other sources. Under its own policy, a
      deterministic player has no influence; with the mixture, it has.
    - ``shared``: if True, one network predicts the values of any agent from its perspective: its own observation and
      action first, followed by those of the agents after it. The same function then measures all agents.
      With one output per agent errors differ, and the balance between two agents is biased by the difference.
    """

    default_uniform_share = DEFAULT_UNIFORM_SHARE

    @property
    def shared(self) -> bool:
        """Returns True if one network predicts the values of any agent."""
        return self.model_config.get("shared", False)

    @classmethod
    def needs_behavior(cls, model_config: Mapping[str, Any]) -> bool:
        """Returns True if counterfactuals are expectations over the players' own policies."""
        return model_config["counterfactual"] == POLICY

    def build_networks(self) -> dict[str, nn.Module]:
        """Builds the reward network and, if behavior is learned, the behavior network."""
        n = self.num_agents
        outputs = (1 if self.shared else n) * (2 if self.regresses_future else 1)
        networks: dict[str, nn.Module] = {"reward": self.joint_action_network(1, outputs)}
        if self.model_config["counterfactual"] == MODELLED:
            networks["behavior"] = self.network(1, n * self.num_actions)
        return networks

    @torch.no_grad()
    def influence(self, transition: Transition, behavior: Tensor | None = None) -> Influence:
        """Computes the value of the joint action minus its counterfactual value."""
        leading = transition.actions.shape[:-1]
        flat = transition.flattened()
        values = self.alternatives_worth(flat)
        if self.model_config["counterfactual"] == POLICY:
            assert behavior is not None
            probs = behavior.flatten(0, len(leading) - 1)
        else:
            probs = self.behavior_model(flat)
        probs = self.with_uniform_share(probs)
        # The alternatives of every agent include the actual joint action; its value is read from those of the first.
        action_index = flat.actions[:, :1, None, None].expand(-1, 1, 1, self.num_agents)
        joint_value = values[:, :1].gather(2, action_index)[:, 0, 0]
        counterfactual = (probs.unsqueeze(-1) * values).sum(2)
        return Influence.agreed(influence(Estimates(joint_value, counterfactual)).unflatten(0, leading))

    def behavior_model(self, flat: Transition) -> Tensor:
        """Predicts the action probabilities of each agent, ``[rows, N, A]``."""
        shape = (len(flat.actions), self.num_agents, self.num_actions)
        if self.model_config["counterfactual"] == UNIFORM:
            return torch.full(shape, 1.0 / self.num_actions, device=flat.actions.device)
        return self.target_networks["behavior"](self.inputs(flat.state, flat.time_left))[0].view(shape).softmax(-1)

    def rows_of_network(self, steps: Transition) -> tuple[Tensor, Tensor]:
        """Returns inputs and actions of the reward network: one row per step or, if shared, per step and agent."""
        if not self.shared:
            return self.inputs(steps.state, steps.time_left), steps.actions[None]
        state, actions = (columns[:, self._after].flatten(0, 1) for columns in (steps.state, steps.actions))
        return self.inputs(state, steps.time_left.repeat_interleave(self.num_agents)), actions[None]

    def outputs(self, networks: nn.ModuleDict, steps: Transition) -> Tensor:
        """Computes the reward network's outputs for the joint actions, ``[rows, N or 2N]`` like :meth:`targets`."""
        out = networks["reward"](*self.rows_of_network(steps))[0]
        if not self.shared:
            return out
        return out.view(len(steps.actions), self.num_agents, -1).transpose(1, 2).flatten(1)

    def alternatives_worth(self, flat: Transition) -> Tensor:
        """Computes the value of each alternative action of each agent for all agents, ``[rows, N, A, N]``."""
        values = self.worth(self.alternatives("reward", *self.rows_of_network(flat))[0])
        if not self.shared:
            return values
        n = self.num_agents
        # The rows of agent i have the alternatives of the k-th agent after i; agent j is the (j - i)-th.
        values_by_offset = values.view(-1, n, n, self.num_actions)
        agents = torch.arange(n, device=values.device)
        return values_by_offset[:, agents, (agents[:, None] - agents) % n].transpose(2, 3)

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        transition = Transition.of(batch)
        out = {"reward": self.outputs(self.online, transition)}
        if "behavior" in self.online:
            inputs = self.inputs(transition.state, transition.time_left)
            out["behavior"] = self.online["behavior"](inputs)[0].unflatten(-1, (self.num_agents, self.num_actions))
        return out

    def losses(self, batch: dict[str, Tensor], out: dict[str, Tensor]) -> dict[str, Tensor]:
        """Computes the mean squared error of rewards (and returns) and the cross-entropy of the agents' actions."""
        losses = {"loss": functional.mse_loss(out["reward"], self.targets(batch))}
        if "behavior" in out:
            losses["behavior_loss"] = cross_entropy(out["behavior"], batch["actions"])
        return losses
