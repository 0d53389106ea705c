"""The learner: estimator, reciprocal reward, advantages, then RLlib's own PPO loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.annotations import override
from torch import Tensor
from torch.nn import functional

from rllib_reciprocator.algorithms.advantages import generalized_advantages, returns_after, values_after
from rllib_reciprocator.algorithms.influence_learner import InfluenceLearner, has_parameters
from rllib_reciprocator.callbacks.social_metrics import QUANTILES, quantiles
from rllib_reciprocator.distributed import standardized
from rllib_reciprocator.estimators import Transition
from rllib_reciprocator.models import BALANCE, PREDICTED_BALANCE, bounded
from rllib_reciprocator.players import RECIPROCATOR
from rllib_reciprocator.rewards import reciprocal_reward
from rllib_reciprocator.rollout import BOOTSTRAP_PREFIX, INFLUENCE_MODULE_ID, JOINT

BALANCE_LOSS = "balance_loss"
ITERATION = "iteration"
RECIPROCAL_REWARD_MEAN = "reciprocal_reward_mean"
RECIPROCAL_REWARD_STD = "reciprocal_reward_std"
RECIPROCAL_REWARD_QUANTILES = f"reciprocal_reward_{QUANTILES}"
RECIPROCAL_WEIGHT = "reciprocal_weight"


class ReciprocatorLearner(InfluenceLearner, PPOTorchLearner):
    """Learns from columns (:meth:`ColumnarSample.to_batch`) instead of episodes.

    In one update it fits the influence estimator, adds the weighted reciprocal reward to the extrinsic reward of
    Reciprocators, estimates advantages, and runs PPO epochs. Statistics over the batch are taken over all learners,
    so that the number of learners does not change what is learned.
    """

    @override(PPOTorchLearner)
    def build(self) -> None:
        """Builds modules and optimizers, and notes who reciprocates."""
        super().build()
        seated = self.config.seated()
        self._seats = [player.seat for player in seated]
        self._reciprocators = {player.seat for player in seated if player.kind == RECIPROCATOR}
        self._steps = self.config.rollout_steps()
        self._default_weight = self.config.default_weight()
        self._iteration = 0

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """An optimizer for every player that learns and for a learned estimator; nothing else changes by gradient."""
        if module_id in self.config.policies_to_train or (
            module_id == INFLUENCE_MODULE_ID and self._estimates_by_gradient
        ):
            super().configure_optimizers_for_module(module_id, config)

    @override(PPOTorchLearner)
    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Tensor]
    ) -> Tensor:
        """PPO's loss, and how far a policy that predicts its balance is off."""
        loss = super().compute_loss_for_module(module_id=module_id, config=config, batch=batch, fwd_out=fwd_out)
        if PREDICTED_BALANCE not in fwd_out:
            return loss
        settings = self.config.reciprocity_settings
        missed = functional.mse_loss(fwd_out[PREDICTED_BALANCE], bounded(batch[BALANCE], settings.balance_scale))
        self.metrics.log_value((module_id, BALANCE_LOSS), missed.detach(), window=1)
        return loss + settings.predict_balance_coeff * missed

    @override(TorchLearner)
    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        """Steps every optimizer; gradients that are not finite are left to RLlib's own, slower way of checking."""
        norms = torch.stack(torch._foreach_norm(list(gradients_dict.values())))
        if not bool(norms.isfinite().all()) or self._grad_scalers is not None or self._lr_scheduler_classes is not None:
            super().apply_gradients(gradients_dict)
            return
        for name, gradient in gradients_dict.items():
            self._params[name].grad = gradient
        for module_id, names in self._module_optimizers.items():
            for name in names:
                self.get_optimizer(module_id, name).step()

    @override(Learner)
    def update(self, *, training_data: TrainingData, timesteps: dict[str, Any], **kwargs: Any) -> Any:
        """One iteration; while the estimator warms up, it alone learns."""
        if timesteps[ITERATION] >= self.config.reciprocity_settings.warmup_iterations:
            return super().update(training_data=training_data, timesteps=timesteps, **kwargs)
        self.before_gradient_based_update(timesteps=timesteps)
        self._weights_seq_no += 1
        self._make_batch_if_necessary(training_data)
        return self.metrics.reduce()

    @override(Learner)
    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Notes the iteration, and makes the order of minibatches follow from the seed and the update's number."""
        super().before_gradient_based_update(timesteps=timesteps)
        self._iteration = int(timesteps[ITERATION])
        seeds = self._seed_update()
        if self.config.shuffle_batch_per_epoch:
            np.random.seed(seeds)

    @override(Learner)
    def _set_slicing_by_batch_id(self, batch: MultiAgentBatch, *, value: bool) -> MultiAgentBatch:
        """Leaves batches to be cut by rows: those of a memory are whole episodes, and so are its minibatches."""
        return batch

    @override(Learner)
    def _make_batch_if_necessary(self, training_data: TrainingData) -> MultiAgentBatch:
        """Turns sampled columns into what the PPO loss takes."""
        parts = self._convert_batch_type(training_data.batch).policy_batches
        joint = {name: column.unflatten(0, (-1, self._steps)) for name, column in parts[JOINT].items()}
        rewards = joint["rewards"]
        if INFLUENCE_MODULE_ID in self.module:
            self._learn_influence(joint)
            rewards = rewards + self._weighted_reciprocal(joint)
        learning = [
            module_id for module_id in parts if module_id in self.module and self.should_module_be_updated(module_id)
        ]
        batches = {
            module_id: self._with_advantages(
                module_id,
                parts[module_id],
                parts[BOOTSTRAP_PREFIX + module_id],
                rewards[..., self._seats.index(module_id)],
                joint["terminated"],
                joint["truncated"],
            )
            for module_id in learning
        }
        return MultiAgentBatch(batches, training_data.batch.env_steps())

    @property
    def _estimates_by_gradient(self) -> bool:
        return has_parameters(self._estimator)

    def _learn_influence(self, joint: dict[str, Tensor]) -> None:
        """Lets the estimator learn from the sampled steps, and from those of earlier iterations that it keeps."""
        estimator = self._estimator
        ended = joint["terminated"] | joint["truncated"]
        future = returns_after(joint["rewards"], ended, self.config.gamma)
        steps = Transition(**{name: joint[name] for name in Transition._fields if name in joint}, future_returns=future)
        self.metrics.log_dict(estimator.observe(steps.flattened(), self._iteration), key=INFLUENCE_MODULE_ID, window=1)
        if not self._estimates_by_gradient:
            return
        self._fit_estimator(estimator.replay_rows(steps, ended), self._iteration)

    def _weighted_reciprocal(self, joint: dict[str, Tensor]) -> Tensor:
        """What is added to the extrinsic rewards, ``[B, T, N]``; zero for players that do not reciprocate."""
        settings = self.config.reciprocity_settings
        reciprocal = reciprocal_reward(joint["balance"], joint["given"], self.config.reciprocal_rule())
        weight = settings.weight_at(self._iteration, self._default_weight)
        self.metrics.log_value((INFLUENCE_MODULE_ID, RECIPROCAL_WEIGHT), weight, window=1)
        added = torch.zeros_like(reciprocal)
        for index, seat in enumerate(self._seats):
            if seat in self._reciprocators:
                own = standardized(reciprocal[..., index]) if settings.normalize else reciprocal[..., index]
                spread = {RECIPROCAL_REWARD_MEAN: own.mean(), RECIPROCAL_REWARD_STD: own.std(correction=0)}
                self.metrics.log_dict(spread, key=seat, window=1)
                (distributed,) = quantiles(own.reshape(-1, 1))
                self.metrics.log_value((seat, RECIPROCAL_REWARD_QUANTILES), distributed, reduce="item_series")
                added[..., index] = weight * own
        return added

    @torch.no_grad()
    def _with_advantages(
        self,
        module_id: str,
        batch: SampleBatch,
        last: SampleBatch,
        rewards: Tensor,
        terminated: Tensor,
        truncated: Tensor,
    ) -> SampleBatch:
        """The player's batch with advantages and value targets, rows ``b * T + t``."""
        config = self.config.get_config_for_module(module_id)
        module = self.module[module_id].unwrapped()
        values = module.compute_values(batch).view_as(rewards)
        ends = terminated | truncated
        nothing_after = terminated if config.bootstrap_at_horizon else ends
        if bool(nothing_after[:, -1].all()):
            last_values = torch.zeros_like(values[:, 0])
        else:
            last_values = module.compute_values(last)
        next_values = values_after(values, last_values, nothing_after)
        advantages = generalized_advantages(
            rewards, values, next_values, ends, gamma=config.gamma, lambda_=config.lambda_
        )
        targets = advantages + values
        if config.normalize_returns:
            targets = standardized(targets)
            advantages = targets - values
        if config.normalize_advantages:
            advantages = standardized(advantages)
        batch[Postprocessing.ADVANTAGES] = advantages.flatten()
        batch[Postprocessing.VALUE_TARGETS] = targets.flatten()
        return batch
