"""Incentives as sampled continuous actions, trained by policy gradients: the paper's baselines PG-c and AC-c."""

from __future__ import annotations

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from rllib_reciprocator.engine.learner import BatchedLearner
from rllib_reciprocator.engine.rollout_batch import RolloutBatch
from rllib_reciprocator.engine.update_rule import Stats, UpdateInfo
from rllib_reciprocator.intrinsic.incentives.giving import function_inputs
from rllib_reciprocator.intrinsic.incentives.incentive_rule import REWARD, IncentiveRule, gradient_of
from rllib_reciprocator.intrinsic.incentives.settings import NOISE
from rllib_reciprocator.intrinsic.incentives.specs import INCENTIVES_MODULE_ID


class SampledIncentiveRule(IncentiveRule):
    """Trains incentive functions on the advantages of givers, without regard to the learning of recipients."""

    def update(self, learner: BatchedLearner, batch: RolloutBatch, info: UpdateInfo) -> Stats:
        """Takes one gradient step of incentive functions."""
        advantages = self._giver_advantages(batch, info)
        outputs = self.functions.outputs(*function_inputs(self.context, self.functions, batch))
        outputs = outputs.unflatten(0, advantages.shape[:2])
        # The score function of a normal distribution with standard deviation 1 is the noise.
        noise = batch.columns[NOISE]
        objective = (outputs * noise * self.functions.paid_to * advantages[..., None]).sum(-1)
        loss = -self.giving.per_episode(objective, batch)
        self.step(REWARD, gradient_of(loss, list(self.functions.functions.parameters())))
        return {INCENTIVES_MODULE_ID: {"incentive_loss": loss}}

    def _giver_advantages(self, batch: RolloutBatch, info: UpdateInfo) -> Tensor:
        """Returns the advantages of givers, ``[B, T, N]``; zero for masked steps and for agents without incentives."""
        advantages = torch.zeros_like(batch.rewards)
        for module_id, rows in info.rows.items():
            agents, mask = self.context.agents_of(module_id), rows.get(Columns.LOSS_MASK)
            values = rows[Postprocessing.ADVANTAGES]
            values = values if mask is None else values * mask
            # Advantages of the members of a pool can be added: each is zero where another member plays.
            advantages[..., agents] += values.view(len(advantages), len(agents), -1).transpose(1, 2)
        return advantages * self.giving.giving(batch)
