"""Influence on what comes later, from a learned value of joint actions."""

from __future__ import annotations

import torch
from torch import Tensor

from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import Transition
from rllib_reciprocator.intrinsic.reciprocity.estimators.reward_model import RewardModelInfluence


def lambda_returns(rewards: Tensor, values: Tensor, ended: Tensor, gamma: float, lambda_: float) -> Tensor:
    """Lambda-returns of steps whose value is that of the actions taken.

    ``G_t = r_t + gamma ((1 - lambda) Q_(t+1) + lambda G_(t+1))``, and ``r_t`` at the end of an episode. After the last
    step of a stream that goes on nothing is known: there the value itself stands for the return.

    Source: Sutton and Barto (2018), equation 12.20.

    Args:
        rewards: ``[B, T, N]``.
        values: ``[B, T, N]``, Q of each step.
        ended: ``[B, T]`` bool, whether the episode ended with that step.
        gamma: Discount.
        lambda_: From 0, one step, to 1, rewards alone.
    """
    returns = torch.empty_like(rewards)
    after = torch.where(ended[:, -1, None], rewards[:, -1], values[:, -1])
    returns[:, -1] = after
    for t in reversed(range(rewards.shape[1] - 1)):
        going_on = (1.0 - lambda_) * values[:, t + 1] + lambda_ * after
        after = rewards[:, t] + gamma * torch.where(ended[:, t, None], 0.0, going_on)
        returns[:, t] = after
    return returns


class ValueInfluence(RewardModelInfluence):
    """One network for what a joint action is worth to every agent, later rewards included.

    ``v[j->i](s, a) = Q_i(s, a) - sum over a^j of pi_j(a^j | s) Q_i(s, (a^j, a^-j))``, with Q_i learned from
    lambda-returns of i's extrinsic rewards (SARSA(lambda)). All alternatives of one agent are inputs beside the others'
    actions as taken, so that nothing grows with the number of joint actions. Where what one does matters to another
    only later, as cleaning does in Cleanup, the reward of the step says nothing of it.

    Source: Zhou, Hong and Kao (2024), value influence; their code learns the value of the next state instead
    (:class:`TransitionInfluence`), which needs the next state to be one of a few.

    Settings in ``model_config`` beside those of :class:`RewardModelInfluence`: ``lambda``.
    """

    @property
    def regresses_future(self) -> bool:
        """The future is part of what the network puts out."""
        return False

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """The lambda-returns, ``[rows, N]``."""
        return batch["returns"]

    @torch.no_grad()
    def replay_rows(self, steps: Transition, ended: Tensor) -> dict[str, Tensor]:
        """Steps and their lambda-returns by the network as it is now."""
        values = self.outputs(self.target_networks, steps.flattened()).view_as(steps.rewards)
        gamma, lambda_ = self.model_config["gamma"], self.model_config["lambda"]
        returns = lambda_returns(steps.rewards, values, ended, gamma, lambda_)
        return {**super().replay_rows(steps, ended), "returns": returns.flatten(0, 1)}
