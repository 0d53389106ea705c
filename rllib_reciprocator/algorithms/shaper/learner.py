"""The learner of Shaper: steps along the gradient that is estimated from what perturbations get."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import MODULE_TRAIN_BATCH_SIZE_MEAN
from torch import Tensor

from rllib_reciprocator.algorithms.coala.learner import COALALearner
from rllib_reciprocator.algorithms.shaper.config import EVOLUTION
from rllib_reciprocator.algorithms.shaper.evolution import expected_fitness, mirrored_noise
from rllib_reciprocator.algorithms.shaper.evolved_module import MEMBER, SEED
from rllib_reciprocator.engine.learner import Joint
from rllib_reciprocator.engine.policy_gradients import POLICY
from rllib_reciprocator.engine.sample import STREAMS_PREFIX
from rllib_reciprocator.players import Player
from rllib_reciprocator.utils.distributed import masked_mean, standardized

# Columns of a module's members: mean reward of a step, and whether it was played at all.
FITNESS, PLAYED = "fitness", "played"


class ShaperLearner(COALALearner):
    """Learns from whole meta-episodes, of each perturbation what it got; others learn as those of COALA."""

    scheduled: ClassVar[tuple[str, ...]] = (*COALALearner.scheduled, "sigma")

    @override(COALALearner)
    def learns_from_credit(self, player: Player) -> bool:
        """Whether what single actions are credited with changes a player."""
        return super().learns_from_credit(player) and self.config.loss_of(player) != EVOLUTION

    @override(COALALearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Adam for the actors of those that evolve."""
        if self._losses.get(module_id) != EVOLUTION:
            super().configure_optimizers_for_module(module_id, config)
            return
        parameters = list(self.module[module_id].unwrapped().actor.parameters())
        self.register_optimizer(
            module_id=module_id,
            optimizer_name=POLICY,
            optimizer=torch.optim.Adam(parameters),
            params=parameters,
            lr_or_lr_schedule=config.lr,
        )

    @override(COALALearner)
    @torch.no_grad()
    def prepare(self, parts: dict[str, dict[str, Tensor]], joint: Joint) -> dict[str, dict[str, Any]]:
        """As in COALA; and of those that evolve, what each member of the population got."""
        batches = super().prepare(parts, joint)
        for key, columns in batches.items():
            if self._losses[key] == EVOLUTION:
                columns |= self._members(key, columns, parts, joint)
        return batches

    def _members(
        self, module_id: str, columns: dict[str, Any], parts: dict[str, dict[str, Tensor]], joint: Joint
    ) -> dict[str, Tensor]:
        """For each member its fitness, whether it was played, and from what it was drawn: each ``[members]``."""
        agents, copies = self._agents[module_id], self.config.meta_settings.copies
        rewards = joint["shaped_rewards"][..., agents] / self.config.reward_scale
        fitness = rewards.mean(1).unflatten(0, (-1, copies)).mean(1)
        played, mask = torch.ones_like(fitness, dtype=torch.bool), columns.get(Columns.LOSS_MASK)
        if mask is not None:
            played = mask.view(-1, len(agents), self._steps)[::copies, :, 0]
        streams = parts[STREAMS_PREFIX + module_id]
        drawn = {name: streams[name].view(-1, copies, len(agents))[:, 0].flatten() for name in (SEED, MEMBER)}
        return {FITNESS: fitness.flatten(), PLAYED: played.flatten(), **drawn}

    @override(COALALearner)
    def _gradient_step(self, module_id: str, columns: dict[str, Any]) -> dict[str, Tensor]:
        """A step of the mean of a population."""
        if self._losses[module_id] != EVOLUTION:
            return super()._gradient_step(module_id, columns)
        config, fitness, played = self.config, columns[FITNESS], columns[PLAYED]
        module = self.module[module_id].unwrapped()
        mean = torch.cat([each.flatten() for each in self.policy_parameters(module_id)])
        better = standardized(fitness, played) * played
        groups = config.num_envs_per_env_runner // config.meta_settings.copies
        agents = len(self._agents[module_id])
        total = mean.new_zeros(())
        # Every env runner draws from a seed of its own.
        for seed in columns[SEED].unique().tolist():
            drawn = columns[SEED] == seed
            noise = mirrored_noise(seed, groups, agents, len(mean))[columns[MEMBER][drawn].cpu()].to(mean.device)
            total = total - expected_fitness(mean, noise, better[drawn], module.sigma)
        of_module = config.get_config_for_module(module_id)
        self._descend(module_id, POLICY, total, int(played.sum()), of_module.grad_clip)
        self.metrics.log_value((module_id, MODULE_TRAIN_BATCH_SIZE_MEAN), len(fitness), reduce="mean")
        average = masked_mean(fitness, played)
        return {"fitness_mean": average, "fitness_std": masked_mean((fitness - average).square(), played).sqrt()}
