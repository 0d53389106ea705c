"""Learner of the batched engine: loops over intrinsic rewards, advantage steps and update rules."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import ALL_MODULES, COMPONENT_OPTIMIZER
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    WEIGHTS_SEQ_NO,
)
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor

from rllib_reciprocator.engine.gradient_steps import MinibatchLearner
from rllib_reciprocator.engine.masks import before_end
from rllib_reciprocator.engine.member_settings import MemberSettings
from rllib_reciprocator.engine.minibatches import counted_rows
from rllib_reciprocator.engine.reward_shaping import RewardShaper
from rllib_reciprocator.engine.rows import RowBuilder
from rllib_reciprocator.engine.update_rule import LEARN, AdvantageStep, Stage, Stats, UpdateInfo, UpdateRule
from rllib_reciprocator.engine.values import ValueEstimator
from rllib_reciprocator.utils.ray_internals import leave_new_memory

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    from rllib_reciprocator.engine.rollout_batch import RolloutBatch

logger = logging.getLogger(__name__)

ITERATION = "iteration"


class BatchedLearner(MinibatchLearner):
    """Learner that trains on :class:`RolloutBatch` instead of episodes.

    In an update, intrinsic rewards refresh their columns; rules of stage ``ESTIMATORS`` run; rewards, values and
    advantages are computed and changed by the advantage steps; rules of stages ``POLICIES`` and ``AFTER_POLICIES`` run.
    Statistics are computed over all learners, so that the number of learners does not change the result.

    Attributes:
        context: Facts about the run.
        intrinsic_rewards: Intrinsic rewards of the run.
        rules: Update rules in the order in which they run.
        advantage_steps: Changes of advantages in the order in which they are applied.
        with_memory: Ids of the trained modules with recurrent state.
        members: Settings of pool members, e.g. their discount factors.
        rows: Builder of the rows that policies learn from.
    """

    @override(PPOTorchLearner)
    def build(self) -> None:
        """Builds intrinsic rewards, update rules, modules, optimizers and advantage steps."""
        config = self.config
        self.context = config.context()
        self.intrinsic_rewards = config.build_intrinsic_rewards(self.context)
        self.rules: list[UpdateRule] = config.build_update_rules(self.context, self.intrinsic_rewards)
        self.rule_of = {module_id: rule for rule in self.rules for module_id in rule.module_ids}
        self._policies = self.context.trained
        super().build()
        leave_new_memory()
        self._entropy = new_seed() if config.seed is None else config.seed
        self.warmup_iterations = config.warmup_iterations()
        self.with_memory = {module_id for module_id in self._policies if self.unwrapped(module_id).get_initial_state()}
        self.members = MemberSettings(self)
        self._set_schedules()
        grad_clips = [config.get_config_for_module(module_id).grad_clip for module_id in self.rule_of]
        self.clips_gradients = any(grad_clip is not None for grad_clip in grad_clips)
        self.rows = RowBuilder(self)
        self._shaper = RewardShaper(self.context, self.intrinsic_rewards, self.metrics)
        self.value_estimator = ValueEstimator(self)
        self.advantage_steps: list[AdvantageStep] = config.build_advantage_steps(self)
        for rule in self.rules:
            rule.on_built(self)

    def _set_schedules(self) -> None:
        """Builds the schedules of settings that modules store in buffers, and sets the buffers to their first value."""
        self._schedules: dict[tuple[str, str], Scheduler] = {}
        for module_id in self._policies:
            module, config = self.unwrapped(module_id), self.config.get_config_for_module(module_id)
            for name in getattr(module, "scheduled_settings", ()):
                if getattr(module, name, None) is not None:
                    schedule = Scheduler(fixed_value_or_schedule=getattr(config, name))
                    module.get_buffer(name).fill_(schedule.get_current_value())
                    self._schedules[module_id, name] = schedule

    @property
    def device(self) -> torch.device:
        """Device of the modules."""
        return self._device

    def unwrapped(self, module_id: str) -> Any:
        """Returns a module without its wrapper for distributed training."""
        return self.module[module_id].unwrapped()

    # --- optimizers -------------------------------------------------------------------------------------------------

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Registers the optimizers of the module's update rule; modules without a rule get none."""
        if module_id in self.rule_of:
            self.rule_of[module_id].configure_optimizers(self, module_id, config)

    def register_default_optimizer(self, module_id: str, config: AlgorithmConfig) -> None:
        """Registers RLlib's default optimizer of a module."""
        super().configure_optimizers_for_module(module_id, config)

    def learning_rate(self, module_id: str) -> float:
        """Returns the current learning rate of a module's first optimizer, which is that of its policy."""
        name = self._module_optimizers[module_id][0]
        return float(self._get_optimizer_lr(self._named_optimizers[name]))

    def entropy_coeff(self, module_id: str) -> Tensor | float:
        """Returns the current entropy coefficient of a module."""
        return self.entropy_coeff_schedulers_per_module[module_id].get_current_value()

    @override(Learner)
    def should_module_be_updated(self, module_id: str, multi_agent_batch: Any = None) -> bool:
        """Returns True for modules that rules train; for policies RLlib's ``policies_to_train`` decides."""
        if module_id in self.rule_of and module_id not in self._policies:
            return True
        return super().should_module_be_updated(module_id, multi_agent_batch)

    # --- one update -------------------------------------------------------------------------------------------------

    @override(Learner)
    def update(
        self,
        *,
        training_data: TrainingData,
        timesteps: dict[str, Any],
        phase: str = LEARN,
        num_epochs: int = 1,
        minibatch_size: int | None = None,
        shuffle_batch_per_epoch: bool = False,
        report: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Performs one phase of an update.

        Args:
            training_data: Its ``batch`` is the :class:`RolloutBatch` of this learner.
            timesteps: Numbers of sampled environment steps and of the iteration.
            phase: Phase of the update (:attr:`UpdateRule.phases`).
            num_epochs: Number of passes over the rows.
            minibatch_size: Environment steps per minibatch; None for the whole rollout.
            shuffle_batch_per_epoch: If True, rows are visited in random order.
            report: If True, returns the metrics since the last report.
            **kwargs: For later versions of RLlib.
        """
        self._check_is_built()
        if phase == LEARN:
            self.before_gradient_based_update(timesteps=timesteps)
            self._weights_seq_no += 1
        training_data.solve_refs()
        batch = training_data.batch.to(self._device)
        info = UpdateInfo(
            phase=phase,
            iteration=int(timesteps[ITERATION]),
            timestep=timesteps[NUM_ENV_STEPS_SAMPLED_LIFETIME],
            num_epochs=num_epochs,
            minibatch_size=minibatch_size,
            shuffle=shuffle_batch_per_epoch,
            generators=self._generators,
        )
        if phase == LEARN:
            self.prepare(batch, info)
        # In warm-up iterations only estimators are trained.
        if info.iteration >= self.warmup_iterations:
            self._run_rules(Stage.POLICIES, batch, info)
            self._run_rules(Stage.AFTER_POLICIES, batch, info)
            if phase == LEARN and info.rows:
                self._log_steps(batch, info)
                self.after_gradient_based_update(timesteps=timesteps)
        return self.metrics.reduce() if report else {}

    @override(Learner)
    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Seeds the generators of the rules from the run's seed and the number of the update."""
        super().before_gradient_based_update(timesteps=timesteps)
        self._generators = seed_generators(self._entropy, self._weights_seq_no)

    @torch.no_grad()
    def prepare(self, batch: RolloutBatch, info: UpdateInfo) -> None:
        """Trains estimators, and computes rewards, values, advantages and the rows that policies learn from.

        Args:
            batch: The rollout; the attributes of the learner are set in place.
            info: Arguments of the update; ``rows`` is set in place.
        """
        if self.context.completes_episodes and batch.valid is None:
            # A pending rollout in a checkpoint of version 0.1 has no mask.
            batch.valid = before_end(batch.ended)
        for reward in self.intrinsic_rewards:
            reward.refresh(batch, self)
        batch.extrinsic = self._shaper.extrinsic(batch)
        with torch.enable_grad():
            self._run_rules(Stage.ESTIMATORS, batch, info)
        self.compute_targets(batch, info.iteration)
        needs_before = any(rule.needs_before for rule in self.rules)
        for module_id in self._policies:
            if self.should_module_be_updated(module_id) and module_id in batch.modules:
                info.rows[module_id] = self.rows.with_advantages(module_id, batch, info, keep_scale=needs_before)
        if needs_before:
            info.parameters_before = {
                module_id: {
                    name: value.detach().clone() for name, value in self.unwrapped(module_id).state_dict().items()
                }
                for module_id in info.rows
            }

    def compute_targets(self, batch: RolloutBatch, iteration: int) -> None:
        """Computes shaped rewards, values, advantages and value targets, and applies the advantage steps.

        Args:
            batch: The rollout, with ``extrinsic``; the results are set in place.
            iteration: Index of the training iteration, from 0.
        """
        batch.shaped_rewards = self.shape_rewards(batch, iteration)
        batch.ends = self.members.ends(batch)
        batch.values, batch.next_values = self.value_estimator.compute(batch)
        for step in self.advantage_steps:
            step(batch)

    def shape_rewards(self, batch: RolloutBatch, iteration: int) -> Tensor:
        """Computes the rewards that agents are trained on, ``[B, T, N]``; see :class:`RewardShaper`."""
        if batch.extrinsic is None:
            batch.extrinsic = self._shaper.extrinsic(batch)
        shaped_rewards = self._shaper.shape(batch, iteration)
        return shaped_rewards if self.config.reward_scale == 1.0 else self.config.reward_scale * shaped_rewards

    def _run_rules(self, stage: Stage, batch: RolloutBatch, info: UpdateInfo) -> None:
        """Runs the rules of a stage that have this phase, and logs their metrics."""
        for rule in self.rules:
            if rule.stage == stage and info.phase in rule.phases:
                self._log_stats(rule.update(self, batch, info))

    def _log_stats(self, stats: Stats) -> None:
        for module_id, metrics in stats.items():
            values = {name: value.detach() if isinstance(value, Tensor) else value for name, value in metrics.items()}
            self.metrics.log_dict(values, key=module_id, window=1)

    @override(PPOTorchLearner)
    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Updates all schedules, including those stored in buffers of modules."""
        super().after_gradient_based_update(timesteps=timesteps)
        for (module_id, name), schedule in self._schedules.items():
            value = schedule.update(timestep=timesteps[NUM_ENV_STEPS_SAMPLED_LIFETIME])
            self.unwrapped(module_id).get_buffer(name).fill_(value)
            self.metrics.log_value((module_id, name), value, window=1)

    def _log_steps(self, batch: RolloutBatch, info: UpdateInfo) -> None:
        """Logs the numbers of environment and module steps trained on."""
        metrics, total_steps = self.metrics, 0
        for module_id, rows in info.rows.items():
            steps = counted_rows(rows) * self.rule_of[module_id].num_epochs(info)
            total_steps += steps
            metrics.log_value((module_id, WEIGHTS_SEQ_NO), self._weights_seq_no, window=1)
            metrics.log_value((module_id, NUM_MODULE_STEPS_TRAINED), steps, reduce="sum")
            key = (module_id, NUM_MODULE_STEPS_TRAINED_LIFETIME)
            metrics.log_value(key, steps, reduce="lifetime_sum", with_throughput=True)
        for key, lifetime, steps in (
            (NUM_MODULE_STEPS_TRAINED, NUM_MODULE_STEPS_TRAINED_LIFETIME, total_steps),
            (NUM_ENV_STEPS_TRAINED, NUM_ENV_STEPS_TRAINED_LIFETIME, info.num_epochs * batch.env_steps()),
        ):
            metrics.log_value((ALL_MODULES, key), steps, reduce="sum", with_throughput=True)
            metrics.log_value((ALL_MODULES, lifetime), steps, reduce="lifetime_sum", with_throughput=True)

    @override(PPOTorchLearner)
    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Tensor]
    ) -> Tensor:
        """Computes the loss of the module's update rule."""
        return self.rule_of[module_id].loss(self, module_id, config, batch, fwd_out)

    # --- state ------------------------------------------------------------------------------------------------------

    @override(Learner)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Returns RLlib's state and the states of the advantage steps."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        for step in self.advantage_steps:
            for key, value in step.get_state().items():
                if self._check_component(key, components, not_components):
                    state[key] = value
        return state

    @override(Learner)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state that :meth:`get_state` returned.

        The optimizer of a module that had another number of parameters in the run of the checkpoint is reset.
        """
        if COMPONENT_OPTIMIZER in state:
            optimizers = dict(state[COMPONENT_OPTIMIZER])
            for module_id, names in self._module_optimizers.items():
                for name in names:
                    self._drop_other_optimizer(optimizers, module_id, name)
            state = {**state, COMPONENT_OPTIMIZER: optimizers}
        super().set_state(state)
        for step in self.advantage_steps:
            step.set_state(state)

    def _drop_other_optimizer(self, optimizers: dict[str, Any], module_id: str, name: str) -> None:
        """Removes the stored state of an optimizer if it belongs to another number of parameters."""
        if name in optimizers:
            current = self._named_optimizers[name].state_dict()
            if _num_parameters(optimizers[name]["state"]) != _num_parameters(current):
                logger.warning("%s: the checkpoint has another number of parameters; its optimizer is reset", module_id)
                del optimizers[name]


def new_seed() -> int:
    """Returns a random seed."""
    return int(np.random.SeedSequence().generate_state(1)[0])


def seed_generators(entropy: int, number: int) -> dict[Stage, torch.Generator]:
    """Returns the random number generators of an update.

    Args:
        entropy: Seed of the run.
        number: Number of the update.
    """
    words = np.random.SeedSequence([entropy, number]).generate_state(2)
    estimators, policies = (torch.Generator().manual_seed(int(word)) for word in words)
    return {Stage.ESTIMATORS: estimators, Stage.POLICIES: policies, Stage.AFTER_POLICIES: policies}


def _num_parameters(optimizer_state: dict[str, Any]) -> list[int]:
    """Returns the number of parameters in each group of an optimizer's state."""
    return [len(group["params"]) for group in optimizer_state["param_groups"]]
