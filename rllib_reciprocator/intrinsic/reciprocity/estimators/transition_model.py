"""Influence that includes future rewards through a transition model, the paper's form for Coins."""

from __future__ import annotations

from math import inf
from typing import Any

import gymnasium
import torch
from torch import Tensor, nn
from torch.nn import functional

from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import Transition
from rllib_reciprocator.intrinsic.reciprocity.estimators.reward_model import RewardModelInfluence
from rllib_reciprocator.models.stacked import stacked_mlp
from rllib_reciprocator.utils.softmax import log_softmax

MAX_STATES = 60_000


def _joint(probs: Tensor) -> Tensor:
    """Computes the joint distribution ``[rows, cells ** objects]`` of independent ``[rows, objects, cells]``."""
    joint = probs[:, 0]
    for object_probs in probs[:, 1:].unbind(1):
        joint = (joint[:, :, None] * object_probs[:, None]).flatten(1)
    return joint


class TransitionInfluence(RewardModelInfluence):
    """Reward model, transition model and state values, with exact counterfactual expectations.

    For environments whose state is a stack of one-hot planes, one per object, as in Coins. Given state and joint
    action, the next cells of the objects are independent categorical variables. The influence on future rewards is
    ``sum over s' of (P(s'|s, a) - Pcf_j(s'|s, a^-j)) V_i(s')`` over all states. As P is a product over objects, the
    table of state values is contracted with the joint probabilities of the first half of the objects, then with those
    of the second half.

    Source: Zhou, Hong and Kao (2024), Coins. Differs from the paper's code, which sums in four nested loops and learns
    a transition model without a^j for each agent j; here Pcf is the expectation of P over j's own probabilities.

    Settings in ``model_config`` are those of :class:`RewardModelInfluence`; ``uniform_share`` defaults to 0, as in the
    paper.
    """

    default_uniform_share = 0.0

    @classmethod
    def check_space(cls, space: gymnasium.Space) -> None:
        """Raises ValueError if the state is not a stack of planes, or if there are too many states."""
        shape = space.shape
        if shape is None or len(shape) != 3:
            raise ValueError(f"reciprocity.influence: transition needs a state of one-hot planes, but it is {space}")
        states = (shape[1] * shape[2]) ** shape[0]
        if states > MAX_STATES:
            raise ValueError(
                f"reciprocity.influence: transition sums over all states; {states:,} are more than {MAX_STATES:,}"
            )

    def setup(self) -> None:
        """Builds the networks, and the table of state values of the initial value network."""
        self.check_space(self.observation_space)
        shape = self.observation_space.shape
        self.num_objects, self.num_cells = shape[0], shape[1] * shape[2]
        self.num_states = self.num_cells**self.num_objects
        super().setup()
        self.register_buffer("state_values", torch.empty(self.num_states, self.num_agents))
        self._tabulate()

    def build_networks(self) -> dict[str, nn.Module]:
        """Builds the networks of the reward model, a transition model and a state value network."""
        planes = self.num_objects * self.num_cells
        return {
            **super().build_networks(),
            "transition": self.joint_action_network(1, planes),
            "value": stacked_mlp(1, [planes, *self.model_config["hiddens"], self.num_agents]),
        }

    @property
    def regresses_future(self) -> bool:
        """Returns False: the reward network has no future returns, which are predicted by the transition model."""
        return False

    @property
    def uses_future(self) -> bool:
        """Returns True: state values are always trained on returns."""
        return True

    def replay_rows(self, steps: Transition, ended: Tensor) -> dict[str, Tensor]:
        """Returns the columns of the steps, the next cell of each object with a mask, and the return of each state."""
        cells = steps.state.flatten(3).argmax(-1)
        # Neither the end of an episode nor the last step of the rollout has a next state in the rollout.
        mask = ~ended
        mask[:, -1] = False
        extra = {
            "next_cells": cells.roll(-1, 1),
            "next_known": mask,
            "returns": steps.rewards + self.model_config["gamma"] * steps.future_returns,
        }
        return {**super().replay_rows(steps, ended), **{name: values.flatten(0, 1) for name, values in extra.items()}}

    def after_fit(self) -> None:
        """Updates the target networks and the table of state values."""
        super().after_fit()
        self._tabulate()

    @torch.no_grad()
    def _tabulate(self) -> None:
        device = self.state_values.device
        digits = self.num_cells ** torch.arange(self.num_objects - 1, -1, -1, device=device)
        cells = torch.arange(self.num_states, device=device)[:, None] // digits % self.num_cells
        planes = functional.one_hot(cells, self.num_cells).float()
        self.state_values.copy_(self.target_networks["value"](planes.flatten(1)[None])[0])

    def next_cells(self, logits: Tensor) -> Tensor:
        """Computes log-probabilities of next cells, ``[.., objects, cells]``, from logits ``[.., objects * cells]``."""
        return log_softmax(logits.unflatten(-1, (self.num_objects, -1)))

    def expected_value(self, probs: Tensor) -> Tensor:
        """Computes expected state values, ``[rows, N]``, under next-cell probabilities ``[rows, objects, cells]``."""
        half = self.num_objects // 2
        first, second = _joint(probs[:, :half]), _joint(probs[:, half:])
        partial = (first @ self.state_values.view(first.shape[1], -1)).view(len(probs), second.shape[1], -1)
        return torch.bmm(second[:, None], partial)[:, 0]

    def alternatives_worth(self, flat: Transition) -> Tensor:
        """Computes reward plus discounted expected state value of each alternative, ``[rows, N, A, N]``."""
        values = super().alternatives_worth(flat)
        weight = self.model_config["future_weight"] * self.model_config["gamma"]
        if not weight:
            return values
        inputs = self.inputs(flat.state, flat.time_left)
        probs = self.next_cells(self.alternatives("transition", inputs, flat.actions[None])[0]).exp()
        # There is no future reward after the last step of an episode, in which ``time_left * horizon`` is 1.
        not_last = (flat.time_left * self.model_config.get("horizon", inf) > 1.5).to(values.dtype)
        future_values = self.expected_value(probs.flatten(0, 2)).view_as(values)
        return values + weight * not_last[:, None, None, None] * future_values

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        transition = Transition.of(batch)
        inputs = self.inputs(transition.state, transition.time_left)
        return {
            **super()._forward_train(batch, **kwargs),
            "next_cells": self.next_cells(self.online["transition"](inputs, transition.actions[None])[0]),
            "values": self.online["value"](transition.state.flatten(1)[None])[0],
        }

    def losses(self, batch: dict[str, Tensor], out: dict[str, Tensor]) -> dict[str, Tensor]:
        """Computes squared errors of rewards and state values, and the cross-entropy of next cells."""
        log_probs = out["next_cells"].gather(-1, batch["next_cells"].unsqueeze(-1)).squeeze(-1)
        mask = batch["next_known"].float()
        return {
            **super().losses(batch, out),
            "value_loss": functional.mse_loss(out["values"], batch["returns"]),
            "transition_loss": -(log_probs.mean(-1) * mask).sum() / mask.sum().clamp(min=1.0),
        }
