"""Influence as each agent can tell it for itself: a decentralised Reciprocator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import Influence, Transition
from rllib_reciprocator.intrinsic.reciprocity.estimators.regression import RegressionInfluence, cross_entropy
from rllib_reciprocator.intrinsic.reciprocity.estimators.reward_model import MODELLED


class OwnViewInfluence(RegressionInfluence):
    """Every agent learns from its own observations and rewards, and from the actions that it sees others take.

    What others did to it, an agent takes from a model of its own reward, with their behaviour from a model of what it
    has seen them do. Of what it did to another it knows no reward; it puts itself in the other's place: its own
    reward model, on what the other sees as far as that can be told from its own observation, says what its action was
    worth there. So two agents may differ on what one did to the other.

    The networks of all agents are one batched computation. The state of a transition is ``[.., N, N, *obs_shape]`` by
    ``[i, k]``: what agent i takes the k-th after it to see, itself first.

    Settings in ``model_config`` beside those of :class:`RegressionInfluence`: ``counterfactual``: ``modelled`` or
    ``uniform``, for its own actions as for others'. Taking its own from the probabilities that it knows would measure
    what it gave by another standard than what it received: the harm that all do habitually would then be owed.
    """

    def build_networks(self) -> dict[str, nn.Module]:
        """Reward models and, unless all are taken to act at random, models of behaviour; one an agent."""
        n = self.num_agents
        networks: dict[str, nn.Module] = {"reward": self.joint_action_network(n, 2 if self.regresses_future else 1)}
        if self.model_config["counterfactual"] == MODELLED:
            networks["behavior"] = self.network(n, n * self.num_actions)
        return networks

    def replay_rows(self, steps: Transition, ended: Tensor) -> dict[str, Tensor]:
        """Of what agents take others to see nothing is kept."""
        flat = steps.flattened()
        return flat._replace(state=flat.state[:, :, 0])._asdict()

    def inputs(self, state: Tensor, time_left: Tensor) -> Tensor:
        """What each agent sees, ``[rows, N, *obs_shape]``, flattened, and the time left, ``[N, rows, inputs]``."""
        times = time_left[:, None, None].expand(-1, self.num_agents, 1)
        return torch.cat([state.flatten(2), times], 2).transpose(0, 1)

    def seen_actions(self, transition: Transition) -> Tensor:
        """The joint action in each agent's order, its own first, ``[N, rows, N]``."""
        return transition.actions[:, self._after].transpose(0, 1)

    @torch.no_grad()
    def influence(self, transition: Transition, behavior: Tensor | None = None) -> Influence:
        """What each agent takes others to have done to it, and itself to have done to others."""
        leading, n = transition.actions.shape[:-1], self.num_agents
        flat = transition.flattened()
        views, actions = flat.state, self.seen_actions(flat)
        rows = actions.shape[1]

        inputs = self.inputs(views[:, :, 0], flat.time_left)
        worth = self.worth(self.alternatives("reward", inputs, actions)).squeeze(-1)
        probs = self.with_uniform_share(self.behavior_model(inputs))
        chosen = worth[:, :, :1].gather(3, actions[:, :, :1, None])[..., 0]
        done_to_me = chosen - (probs * worth).sum(-1)

        others = torch.arange(1, n, device=actions.device)
        in_their_place = self.inputs(
            views[:, :, 1:].transpose(1, 2).flatten(0, 1), flat.time_left.repeat_interleave(n - 1)
        )
        # From the place of the k-th after me I am the (N - k)-th.
        their_actions = actions[:, :, self._after[1:]].flatten(1, 2)
        me = (n - others).repeat(rows)
        worth = self.worth(self.alternatives("reward", in_their_place, their_actions, me)).squeeze(-1)
        mine = their_actions.gather(2, me.expand(n, -1)[..., None])
        expected = (probs[:, :, 0].repeat_interleave(n - 1, 1) * worth).sum(-1)
        done_to_them = (worth.gather(2, mine)[..., 0] - expected).view(n, rows, n - 1)

        received, given = torch.empty(2, rows, n, n, device=actions.device)
        viewers = torch.arange(n, device=actions.device)[:, None]
        received[:, self._after, viewers] = done_to_me.transpose(0, 1)
        given[:, viewers, self._after] = torch.cat([done_to_me[..., :1], done_to_them], 2).transpose(0, 1)
        return Influence(received.unflatten(0, leading), given.unflatten(0, leading))

    def behavior_model(self, inputs: Tensor) -> Tensor:
        """What each agent takes itself and those after it to do, ``[N, rows, N, A]`` probabilities."""
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
        """Mean squared error of own rewards (and returns), and the negative log-likelihood of what all did."""
        targets = self.targets(batch).unflatten(-1, (-1, self.num_agents)).permute(2, 0, 1)
        losses = {"loss": functional.mse_loss(out["reward"], targets)}
        if "behavior" in out:
            losses["behavior_loss"] = cross_entropy(out["behavior"], self.seen_actions(Transition.of(batch)))
        return losses
