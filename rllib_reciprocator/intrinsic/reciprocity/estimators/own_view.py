"""Influence as each agent estimates it from its own observations, for decentralized Reciprocators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import Influence, Transition
from rllib_reciprocator.intrinsic.reciprocity.estimators.regression import RegressionInfluence, cross_entropy
from rllib_reciprocator.intrinsic.reciprocity.estimators.reward_model import MODELLED


class OwnViewInfluence(RegressionInfluence):
    """Estimators of all agents, each trained on the observations and rewards of one agent and on all actions.

    An agent computes the influence that it receives with a model of its own reward and a model of the others' behavior.
    It does not observe the others' rewards. To compute its influence on another agent, it applies its own reward model
    to the observation of that agent, as inferred from its own observation. Two agents may therefore disagree on the
    influence of one on the other.

    The networks of all agents are one batched computation. The state of a transition is ``[.., N, N, *obs_shape]`` by
    ``[i, k]``: observation of the k-th agent after i, as inferred by agent i; ``k = 0`` is its own observation.

    Settings in ``model_config`` in addition to those of :class:`RegressionInfluence`: ``counterfactual``: ``modelled``
    or ``uniform``, for the agent's own actions and for those of the others. The probabilities of
    an agent's own actions are not taken from its policy, although it is known: the influence that it exerts and the
    influence that it receives would then have different baselines, and habitual harm by all agents would count as owed.
    """

    def build_networks(self) -> dict[str, nn.Module]:
        """Builds a reward model per agent and, unless behavior is assumed uniform, a behavior model per agent."""
        n = self.num_agents
        networks: dict[str, nn.Module] = {"reward": self.joint_action_network(n, 2 if self.regresses_future else 1)}
        if self.model_config["counterfactual"] == MODELLED:
            networks["behavior"] = self.network(n, n * self.num_actions)
        return networks

    def replay_rows(self, steps: Transition, ended: Tensor) -> dict[str, Tensor]:
        """Returns the columns to store; of the views, only each agent's own observation is stored."""
        flat = steps.flattened()
        return flat._replace(state=flat.state[:, :, 0])._asdict()

    def inputs(self, state: Tensor, time_left: Tensor) -> Tensor:
        """Concatenates observations ``[rows, N, *obs_shape]``, flattened, and time left to ``[N, rows, inputs]``."""
        times = time_left[:, None, None].expand(-1, self.num_agents, 1)
        return torch.cat([state.flatten(2), times], 2).transpose(0, 1)

    def seen_actions(self, transition: Transition) -> Tensor:
        """Returns the joint action in the order of each agent, its own action first, ``[N, rows, N]``."""
        return transition.actions[:, self._after].transpose(0, 1)

    @torch.no_grad()
    def influence(self, transition: Transition, behavior: Tensor | None = None) -> Influence:
        """Computes the influence that each agent receives and exerts, as estimated by that agent."""
        leading, n = transition.actions.shape[:-1], self.num_agents
        flat = transition.flattened()
        views, actions = flat.state, self.seen_actions(flat)
        rows = actions.shape[1]

        inputs = self.inputs(views[:, :, 0], flat.time_left)
        values = self.worth(self.alternatives("reward", inputs, actions)).squeeze(-1)
        probs = self.with_uniform_share(self.behavior_model(inputs))
        joint_value = values[:, :, :1].gather(3, actions[:, :, :1, None])[..., 0]
        influence_on_self = joint_value - (probs * values).sum(-1)

        # The same for the influence on others, with each agent's reward model applied to their views.
        offsets = torch.arange(1, n, device=actions.device)
        other_inputs = self.inputs(
            views[:, :, 1:].transpose(1, 2).flatten(0, 1), flat.time_left.repeat_interleave(n - 1)
        )
        # In the order of the k-th agent after agent i, agent i is the (N - k)-th.
        other_actions = actions[:, :, self._after[1:]].flatten(1, 2)
        positions = (n - offsets).repeat(rows)
        values = self.worth(self.alternatives("reward", other_inputs, other_actions, positions)).squeeze(-1)
        agent_actions = other_actions.gather(2, positions.expand(n, -1)[..., None])
        expected_values = (probs[:, :, 0].repeat_interleave(n - 1, 1) * values).sum(-1)
        influence_by_self = (values.gather(2, agent_actions)[..., 0] - expected_values).view(n, rows, n - 1)

        on_self, by_self = torch.empty(2, rows, n, n, device=actions.device)
        viewers = torch.arange(n, device=actions.device)[:, None]
        on_self[:, self._after, viewers] = influence_on_self.transpose(0, 1)
        by_self[:, viewers, self._after] = torch.cat([influence_on_self[..., :1], influence_by_self], 2).transpose(0, 1)
        return Influence(on_self.unflatten(0, leading), by_self.unflatten(0, leading))

    def behavior_model(self, inputs: Tensor) -> Tensor:
        """Predicts the action probabilities of each agent and the agents after it, ``[N, rows, N, A]``."""
        shape = (*inputs.shape[:2], self.num_agents, self.num_actions)
        if "behavior" not in self.target_networks:
            return torch.full(shape, 1.0 / self.num_actions, device=inputs.device)
        return self.target_networks["behavior"](inputs).view(shape).softmax(-1)

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        transition = Transition.of(batch)
        inputs = self.inputs(transition.state, transition.time_left)
        out = {"reward": self.online["reward"](inputs, self.seen_actions(transition))}
        if "behavior" in self.online:
            logits = self.online["behavior"](inputs)
            out["behavior"] = logits.unflatten(-1, (self.num_agents, self.num_actions))
        return out

    def losses(self, batch: dict[str, Tensor], out: dict[str, Tensor]) -> dict[str, Tensor]:
        """Computes the mean squared error of own rewards (and returns) and the cross-entropy of all actions."""
        targets = self.targets(batch).unflatten(-1, (-1, self.num_agents)).permute(2, 0, 1)
        losses = {"loss": functional.mse_loss(out["reward"], targets)}
        if "behavior" in out:
            losses["behavior_loss"] = cross_entropy(out["behavior"], self.seen_actions(Transition.of(batch)))
        return losses
