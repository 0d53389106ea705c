"""Influence from one learned model of what a joint action is worth."""

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
# With it a deterministic defector has influence, and Reciprocators answer it; in Coins they also cooperate sooner.
DEFAULT_UNIFORM_SHARE = 0.3


class RewardModelInfluence(RegressionInfluence):
    """One network for the rewards of all agents under any joint action; counterfactuals as exact expectations.

    ``Rcf_ij(s, a^-j) = sum over a^j of pi_j(a^j | s) R_i(s, (a^j, a^-j))`` takes pi_j from the probabilities with which
    j chose, so that no counterfactual network is needed, and the influence of j averages to zero over j's own choices
    whatever the model's error. All alternatives of all agents are one batch.

    Source: Zhou, Hong and Kao (2024), value influence. Differs from the paper's code, which learns a counterfactual
    network for each pair of agents (:class:`CounterfactualInfluence`) and gives it raw action numbers.

    Settings in ``model_config`` beside those of :class:`RegressionInfluence`: ``counterfactual``, where pi_j comes
    from: ``policy``, the probabilities with which j chose; ``modelled``, a second network that learns from what is seen
    what each agent does, for players who do not tell; ``uniform``, as if j chose each action alike; and
    ``uniform_share``, how much of the last is mixed into the others. Who always does the same has no influence by its
    own choices, and some by what it might do. With ``shared`` one network tells the worth to any agent from its place:
    its own observation and action first, then those of the agents after it. Then all are measured alike; networks with
    an output an agent err for each in another way, and what two owe each other is off by the difference.
    """

    default_uniform_share = DEFAULT_UNIFORM_SHARE

    @property
    def shared(self) -> bool:
        """Whether one network tells the worth to any agent."""
        return self.model_config.get("shared", False)

    @classmethod
    def needs_behavior(cls, model_config: Mapping[str, Any]) -> bool:
        """Returns whether counterfactuals are expectations over the players' own policies."""
        return model_config["counterfactual"] == POLICY

    def build_networks(self) -> dict[str, nn.Module]:
        """A network for rewards, and one for behaviour if that is learned."""
        n = self.num_agents
        outputs = (1 if self.shared else n) * (2 if self.regresses_future else 1)
        networks: dict[str, nn.Module] = {"reward": self.joint_action_network(1, outputs)}
        if self.model_config["counterfactual"] == MODELLED:
            networks["behavior"] = self.network(1, n * self.num_actions)
        return networks

    @torch.no_grad()
    def influence(self, transition: Transition, behavior: Tensor | None = None) -> Influence:
        """What the joint action is worth less its counterfactual."""
        leading = transition.actions.shape[:-1]
        flat = transition.flattened()
        worth = self.alternatives_worth(flat)
        if self.model_config["counterfactual"] == POLICY:
            assert behavior is not None
            probs = behavior.flatten(0, len(leading) - 1)
        else:
            probs = self.behavior_model(flat)
        probs = self.with_uniform_share(probs)
        of_first = flat.actions[:, :1, None, None].expand(-1, 1, 1, self.num_agents)
        chosen = worth[:, :1].gather(2, of_first)[:, 0, 0]
        counterfactual = (probs.unsqueeze(-1) * worth).sum(2)
        return Influence.agreed(influence(Estimates(chosen, counterfactual)).unflatten(0, leading))

    def behavior_model(self, flat: Transition) -> Tensor:
        """What each agent is taken to do, ``[rows, N, A]`` probabilities."""
        shape = (len(flat.actions), self.num_agents, self.num_actions)
        if self.model_config["counterfactual"] == UNIFORM:
            return torch.full(shape, 1.0 / self.num_actions, device=flat.actions.device)
        return self.target_networks["behavior"](self.inputs(flat.state, flat.time_left))[0].view(shape).softmax(-1)

    def rows_of_network(self, steps: Transition) -> tuple[Tensor, Tensor]:
        """What goes into the network of rewards, inputs and actions: a row a step, or one for each agent's place."""
        if not self.shared:
            return self.inputs(steps.state, steps.time_left), steps.actions[None]
        state, actions = (columns[:, self._after].flatten(0, 1) for columns in (steps.state, steps.actions))
        return self.inputs(state, steps.time_left.repeat_interleave(self.num_agents)), actions[None]

    def outputs(self, networks: nn.ModuleDict, steps: Transition) -> Tensor:
        """What the network of rewards says of the joint actions, ``[rows, N or 2N]`` as :meth:`targets`."""
        out = networks["reward"](*self.rows_of_network(steps))[0]
        if not self.shared:
            return out
        return out.view(len(steps.actions), self.num_agents, -1).transpose(1, 2).flatten(1)

    def alternatives_worth(self, flat: Transition) -> Tensor:
        """What every alternative action of every agent would be worth to all, ``[rows, N, A, N]``."""
        worth = self.worth(self.alternatives("reward", *self.rows_of_network(flat))[0])
        if not self.shared:
            return worth
        n = self.num_agents
        # Of the k-th after i; agent j is the (j - i)-th.
        of_places = worth.view(-1, n, n, self.num_actions)
        agents = torch.arange(n, device=worth.device)
        return of_places[:, agents, (agents[:, None] - agents) % n].transpose(2, 3)

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        transition = Transition.of(batch)
        out = {"reward": self.outputs(self.online, transition)}
        if "behavior" in self.online:
            inputs = self.inputs(transition.state, transition.time_left)
            out["behavior"] = self.online["behavior"](inputs)[0].unflatten(-1, (self.num_agents, self.num_actions))
        return out

    def losses(self, batch: dict[str, Tensor], out: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean squared error of rewards (and returns), and the negative log-likelihood of what agents did."""
        losses = {"loss": functional.mse_loss(out["reward"], self.targets(batch))}
        if "behavior" in out:
            losses["behavior_loss"] = cross_entropy(out["behavior"], batch["actions"])
        return losses
