"""Credit of incentives with the givers' models of co-players instead of the co-players' policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_reciprocator.engine.advantages import generalized_advantages, subtract_mean
from rllib_reciprocator.engine.update_rule import Stats
from rllib_reciprocator.intrinsic.incentives.credit import directional
from rllib_reciprocator.intrinsic.incentives.giving import FunctionInputs, trained_observations
from rllib_reciprocator.intrinsic.incentives.incentive_rule import OPPONENTS, IncentiveRule, gradient_of
from rllib_reciprocator.intrinsic.incentives.settings import INCENTIVES
from rllib_reciprocator.intrinsic.incentives.specs import OPPONENTS_MODULE_ID
from rllib_reciprocator.utils.distributed import averaged_over_learners

if TYPE_CHECKING:
    from rllib_reciprocator.engine.rollout_batch import RolloutBatch


class ModelledCredit:
    """Derivatives of givers' losses by advantages, through simulated updates of models of co-players.

    A giver observes the extrinsic rewards of co-players and its own incentives for them, assumes that they are trained
    on the resulting returns, and simulates this update of its models. The models are fitted to the actions of the
    rollouts before and after the update.

    Source: Yang et al. (2020), section 3.2, the decentralized form.
    """

    def __init__(self, rule: IncentiveRule) -> None:
        """Stores the rule whose models are used.

        Args:
            rule: The built update rule of incentive functions.
        """
        self.rule, self.models, self.giving = rule, rule.models, rule.giving
        self._stats: Stats = {}

    def compute(
        self, inputs: FunctionInputs, before: RolloutBatch, batch: RolloutBatch, gains: Tensor
    ) -> tuple[Tensor, Stats]:
        """Computes the derivatives and fits the models.

        Args:
            inputs: Inputs of incentive functions in the rollout of the policy update.
            before: The rollout of the policy update.
            batch: The rollout after it.
            gains: ``[B, T, N]``, advantages of givers in the rollout after it.

        Returns:
            Derivatives ``[B, T, N, N]`` by ``[giver, updated agent]``, and metrics of the models.
        """
        models, recipients, context = self.models, self.models.others, self.rule.context
        n, device = gains.shape[-1], gains.device
        valid, valid_before = self.giving.valid(batch), self.giving.valid(before)
        givers = torch.arange(n, device=device).repeat_interleave(n - 1)
        obs, actions, incentives = inputs[0], inputs[1], before.columns[INCENTIVES]
        gamma = self.rule.learner.members.gamma.lookup(before.pool_members)
        self._fit(obs, actions, valid_before)
        parameters = dict(models.networks.named_parameters(prefix="networks"))

        def log_probabilities(params: Mapping[str, Tensor], *rows: Tensor) -> Tensor:
            return torch.func.functional_call(models, dict(params), rows)

        # The assumed policy step of the recipients, each with its own learning rate.
        mask, zeros = valid_before[..., None, None], torch.zeros_like(incentives)
        # Policies are trained on scaled rewards.
        rewards = self.rule.config.reward_scale * (before.rewards[..., None, :] + incentives) * mask
        ends = ~valid_before | before.ended
        returns = generalized_advantages(rewards, zeros, zeros, ends, gamma=gamma, lambda_=1.0)
        advantages = self._centered(returns, valid_before) * mask
        step_weights = advantages.flatten(0, 1)[:, givers, recipients].t()
        objective = (log_probabilities(parameters, obs, actions) * step_weights).sum()
        steps = gradient_of(objective, list(parameters.values()))
        episodes = averaged_over_learners(steps, len(valid_before))
        sizes = (self._rates(n, device)[recipients] / episodes)[:, None, None]
        updated_params = {
            name: (param + sizes * step).detach().requires_grad_()
            for (name, param), step in zip(parameters.items(), steps, strict=True)
        }
        # The gradient of the givers' losses with respect to the updated models.
        columns = {module_id: module.steps[Columns.OBS] for module_id, module in batch.modules.items()}
        later_obs = trained_observations(context, self.rule.functions, columns).flatten(0, 1)
        rows = (later_obs, batch.actions.flatten(0, 1))
        weights = -gains.flatten(0, 1)[:, givers].t() / self.giving.episodes(batch)
        loss = (log_probabilities(updated_params, *rows) * weights).sum()
        direction = gradient_of(loss, list(updated_params.values()))
        averaged_over_learners(direction, 1)
        leaves = {name: param.detach().requires_grad_() for name, param in parameters.items()}
        (derivative,) = directional(
            lambda: log_probabilities(leaves, obs, actions).flatten(), list(leaves.values()), [direction]
        )
        rows_before = valid_before.flatten()
        derivative = derivative.view(n * (n - 1), -1) * sizes[:, :, 0] * rows_before
        credit = torch.zeros(len(rows_before), n, n, device=device)
        credit[:, givers, recipients] = derivative.t()
        credit = credit.unflatten(0, valid_before.shape)
        self._fit(*rows, valid)
        return self._centered(credit, valid_before) * mask, self._stats

    def _centered(self, pair_values: Tensor, valid: Tensor) -> Tensor:
        """Subtracts the mean over episodes at each step from ``[B, T, N, N]``, if ``use_baseline`` is set."""
        if not self.rule.config.use_baseline:
            return pair_values
        return subtract_mean(pair_values.flatten(2), valid).view_as(pair_values)

    def _fit(self, obs: Tensor, actions: Tensor, valid: Tensor) -> None:
        """Takes gradient steps of all models of co-players on the log-likelihood of their actions.

        Args:
            obs: ``[rows, N, *obs_shape]``.
            actions: ``[rows, N]`` int64.
            valid: ``[B, T]`` bool, the mask of the rows.
        """
        models, rows = self.models, valid.flatten()
        episodes = averaged_over_learners([torch.zeros(1, device=valid.device)], len(valid))
        parameters, count = list(models.networks.parameters()), episodes * valid.shape[1]
        for epoch in range(self.rule.settings.opponent_epochs):
            loss = -(models(obs, actions) * rows).sum() / count
            if epoch == 0:
                self._stats = {OPPONENTS_MODULE_ID: {"opponents_loss": loss}}
            self.rule.step(OPPONENTS, gradient_of(loss, parameters))

    def _rates(self, num_agents: int, device: torch.device) -> Tensor:
        """Returns the learning rate of each agent's policy, ``[N]``; zero for agents that are not trained."""
        rates = torch.zeros(num_agents, device=device)
        for module_id in self.rule.context.trained:
            rates[self.rule.context.agents_of(module_id)] = self.rule.learner.learning_rate(module_id)
        return rates
