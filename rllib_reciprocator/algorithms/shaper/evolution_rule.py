"""Evolution strategies as an update rule: gradient steps estimated from the fitness of perturbations."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.utils.metrics import MODULE_TRAIN_BATCH_SIZE_MEAN
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor

from rllib_reciprocator.algorithms.shaper.evolution import expected_fitness, mirrored_noise
from rllib_reciprocator.algorithms.shaper.evolved_module import MEMBER, SEED
from rllib_reciprocator.engine.learner import BatchedLearner
from rllib_reciprocator.engine.rollout_batch import RolloutBatch
from rllib_reciprocator.engine.update_rule import Stats, UpdateInfo
from rllib_reciprocator.engine.updates.policy_gradient import POLICY, PolicyGradientRule
from rllib_reciprocator.utils.distributed import masked_mean, standardized

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

# Larger perturbations saturate every policy.
MAX_SIGMA = 1e3


class EvolutionRule(PolicyGradientRule):
    """Takes steps of Adam towards the perturbations of a policy's parameters with higher fitness."""

    uses_advantages: ClassVar[bool] = False
    uses_lambda: ClassVar[bool] = True
    centers_returns: ClassVar[bool] = False
    needs_whole_episodes: ClassVar[bool] = False
    separate_critic: ClassVar[bool] = False

    def check(self) -> None:
        """Checks that ``sigma`` is in range, and that each module has more than one perturbation per iteration."""
        for module_id in self.module_ids:
            _check_sigma(self.config.get_config_for_module(module_id).sigma)
        context, copies = self.context, self.context.meta.copies
        groups = context.num_environments // copies
        agents = Counter(seat.module_id for seat in context.seats() if seat.module_id in self.module_ids)
        for module_id, count in agents.items():
            if groups * count < 2:
                raise ValueError(
                    f"num_envs_per_env_runner: {context.environments_per_runner} environments are one group of"
                    f" meta.copies {copies}, so {module_id} has a single perturbation and its fitness cannot be"
                    f" compared; use {2 * copies} or more"
                )

    def configure_optimizers(self, learner: BatchedLearner, module_id: str, config: AlgorithmConfig) -> None:
        """Registers Adam for the actor."""
        parameters = list(learner.unwrapped(module_id).actor.parameters())
        learner.register_optimizer(
            module_id=module_id,
            optimizer_name=POLICY,
            optimizer=torch.optim.Adam(parameters),
            params=parameters,
            lr_or_lr_schedule=config.lr,
        )

    def update(self, learner: BatchedLearner, batch: RolloutBatch, info: UpdateInfo) -> Stats:
        """Takes one step of the mean of each population."""
        return {
            module_id: self._evolve(learner, module_id, batch, info.rows[module_id])
            for module_id in self.module_ids
            if module_id in info.rows
        }

    def _evolve(
        self, learner: BatchedLearner, module_id: str, batch: RolloutBatch, rows: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Takes one step of the mean of a population and returns metrics.

        Args:
            learner: The learner.
            module_id: Id of the module.
            batch: The rollout.
            rows: Rows of the module.
        """
        config, module = self.config.get_config_for_module(module_id), learner.unwrapped(module_id)
        fitness, played_mask = self._fitness(module_id, batch, rows)
        seeds, members = self._perturbations(module_id, batch)
        parameters = learner.get_optimizer(module_id, POLICY).param_groups[0]["params"]
        mean = torch.cat([param.flatten() for param in parameters])
        scores = standardized(fitness, played_mask) * played_mask
        groups = self.context.environments_per_runner // self.context.meta.copies
        agents = len(self.context.agents_of(module_id))
        total = mean.new_zeros(())
        # Every env runner has its own seed. Noise is regenerated from the seeds instead of being sent with the rollout.
        for seed in seeds.unique().tolist():
            mask = seeds == seed
            noise = mirrored_noise(seed, groups, agents, len(mean))[members[mask].cpu()].to(mean.device)
            total = total - expected_fitness(mean, noise, scores[mask], module.sigma)
        self.descend(learner, module_id, POLICY, total, int(played_mask.sum()), config.grad_clip)
        learner.metrics.log_value((module_id, MODULE_TRAIN_BATCH_SIZE_MEAN), len(fitness), reduce="mean")
        average = masked_mean(fitness, played_mask)
        return {"fitness_mean": average, "fitness_std": masked_mean((fitness - average).square(), played_mask).sqrt()}

    @torch.no_grad()
    def _fitness(self, module_id: str, batch: RolloutBatch, rows: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Returns the mean unscaled reward per step of each perturbation, and whether it played, each ``[members]``."""
        agents, copies = self.context.agents_of(module_id), self.context.meta.copies
        rewards = batch.shaped_rewards[..., agents] / self.config.reward_scale
        fitness = rewards.mean(1).unflatten(0, (-1, copies)).mean(1)
        played_mask, mask = torch.ones_like(fitness, dtype=torch.bool), rows.get(Columns.LOSS_MASK)
        if mask is not None:
            played_mask = mask.view(-1, len(agents), self.context.rollout_steps)[::copies, :, 0]
        return fitness.flatten(), played_mask.flatten()

    def _perturbations(self, module_id: str, batch: RolloutBatch) -> tuple[Tensor, Tensor]:
        """Returns the seed and the index of each perturbation, each ``[members]`` int64."""
        extra, copies = batch.modules[module_id].extra, self.context.meta.copies
        return extra[SEED][::copies].flatten(), extra[MEMBER][::copies].flatten()


def _check_sigma(sigma: float | list[list[float]]) -> None:
    """Raises ValueError if the standard deviation of perturbations, or a value of its schedule, is out of range."""
    Scheduler.validate(
        fixed_value_or_schedule=sigma, setting_name="sigma", description="standard deviation of perturbations"
    )
    points = sigma if isinstance(sigma, list | tuple) else [(None, sigma)]
    for step, value in points:
        if not 0.0 < value <= MAX_SIGMA:
            suffix = "" if step is None else f" at step {step}"
            raise ValueError(
                f"sigma: {value:g}{suffix} is out of range for the standard deviation of perturbations; it must"
                f" be above 0 and at most {MAX_SIGMA:g}"
            )
