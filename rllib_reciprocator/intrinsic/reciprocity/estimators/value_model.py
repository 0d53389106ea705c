"""Influence that includes future rewards, from a learned value of joint actions."""

from __future__ import annotations

import torch
from torch import Tensor

from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import Transition
from rllib_reciprocator.intrinsic.reciprocity.estimators.reward_model import RewardModelInfluence


def lambda_returns(rewards: Tensor, values: Tensor, ended: Tensor, gamma: float, lambda_: float) -> Tensor:
    """Computes lambda-returns with action values.

    ``G_t = r_t + gamma ((1 - lambda) Q_(t+1) + lambda G_(t+1))``, and ``r_t`` at the end of an episode. The next value
    is not known in the last step of a rollout whose episode continues; the return of that step is its own value.

    Source: Sutton and Barto (2018), equation 12.20.

    Args:
        rewards: ``[B, T, N]``.
        values: ``[B, T, N]``, value Q of the joint action of each step.
        ended: ``[B, T]`` bool, True in the last step of an episode.
        gamma: Discount factor.
        lambda_: From 0, one-step TD targets, to 1, Monte Carlo returns.

    Returns:
        ``[B, T, N]``.
    """
    returns = torch.empty_like(rewards)
    next_return = torch.where(ended[:, -1, None], rewards[:, -1], values[:, -1])
    returns[:, -1] = next_return
    for t in reversed(range(rewards.shape[1] - 1)):
        bootstrap = (1.0 - lambda_) * values[:, t + 1] + lambda_ * next_return
        next_return = rewards[:, t] + gamma * torch.where(ended[:, t, None], 0.0, bootstrap)
        returns[:, t] = next_return
    return returns


class ValueInfluence(RewardModelInfluence):
    """One network for the value of a joint action for every agent, including future rewards.

    ``v[j->i](s, a) = Q_i(s, a) - sum over a^j of pi_j(a^j | s) Q_i(s, (a^j, a^-j))``, with Q_i learned from
    lambda-returns of i's extrinsic rewards (SARSA(lambda)). The alternatives of an agent are evaluated with the actual
    actions of the others, so that the cost does not grow with the number of joint actions. This estimator is for
    environments in which actions affect the rewards of others only later, such as cleaning in Cleanup, where the reward
    of the step has no information on it.

    Source: Zhou, Hong and Kao (2024), value influence; their code learns the value of the next state instead
    (:class:`TransitionInfluence`), which requires a small number of possible next states.

    Settings in ``model_config`` in addition to those of :class:`RewardModelInfluence`: ``lambda``.
    """

    @property
    def regresses_future(self) -> bool:
        """Returns False: the outputs of the network include future rewards."""
        return False

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """Returns the lambda-returns, ``[rows, N]``."""
        return batch["returns"]

    @torch.no_grad()
    def replay_rows(self, steps: Transition, ended: Tensor) -> dict[str, Tensor]:
        """Returns the columns of the steps and their lambda-returns, computed with the current target network."""
        values = self.outputs(self.target_networks, steps.flattened()).view_as(steps.rewards)
        gamma, lambda_ = self.model_config["gamma"], self.model_config["lambda"]
        returns = lambda_returns(steps.rewards, values, ended, gamma, lambda_)
        return {**super().replay_rows(steps, ended), "returns": returns.flatten(0, 1)}
