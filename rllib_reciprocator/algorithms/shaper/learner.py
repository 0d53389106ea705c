"""Learner of Shaper: gradient steps estimated from the fitness of perturbations."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import MODULE_TRAIN_BATCH_SIZE_MEAN
from torch import Tensor

from rllib_reciprocator.algorithms.coala.learner import COALALearner
from rllib_reciprocator.algorithms.shaper.evolution import expected_fitness, mirrored_noise
from rllib_reciprocator.algorithms.shaper.evolved_module import MEMBER, SEED
from rllib_reciprocator.engine.learner import Joint
from rllib_reciprocator.engine.policy_gradients import POLICY
from rllib_reciprocator.engine.sample import STREAMS_PREFIX
from rllib_reciprocator.players import Player
from rllib_reciprocator.utils.distributed import masked_mean, standardized

# Columns of a module's members: mean reward per step, and whether the member was played.
FITNESS, PLAYED = "fitness", "played"

EVOLUTION = "evolution"


class ShaperLearner(COALALearner):
    """Learner that trains ``shaper`` players on the fitness of perturbations, and other players as in COALA."""

    scheduled: ClassVar[tuple[str, ...]] = (*COALALearner.scheduled, "sigma")

    @override(COALALearner)
    def learns_from_credit(self, player: Player) -> bool:
        """Returns whether a player is trained on the credit of single actions."""
        return super().learns_from_credit(player) and self.config.loss_of(player) != EVOLUTION

    @override(COALALearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Registers Adam for the actors of ``shaper`` players, and the optimizers of COALA for other players."""
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
        """Prepares batches as in COALA, and adds the fitness of each population member."""
        batches = super().prepare(parts, joint)
        for key, columns in batches.items():
            if self._losses[key] == EVOLUTION:
                columns |= self._members(key, columns, parts, joint)
        return batches

    def _members(
        self, module_id: str, columns: dict[str, Any], parts: dict[str, dict[str, Tensor]], joint: Joint
    ) -> dict[str, Tensor]:
        """Returns for each member its fitness, whether it was played, its seed and its index, each ``[members]``."""
        agents, copies = self._agents[module_id], self.config.meta_settings.copies
        rewards = joint["shaped_rewards"][..., agents] / self.config.reward_scale
        fitness = rewards.mean(1).unflatten(0, (-1, copies)).mean(1)
        played_mask, mask = torch.ones_like(fitness, dtype=torch.bool), columns.get(Columns.LOSS_MASK)
        if mask is not None:
            played_mask = mask.view(-1, len(agents), self._steps)[::copies, :, 0]
        streams = parts[STREAMS_PREFIX + module_id]
        origin = {name: streams[name].view(-1, copies, len(agents))[:, 0].flatten() for name in (SEED, MEMBER)}
        return {FITNESS: fitness.flatten(), PLAYED: played_mask.flatten(), **origin}

    @override(COALALearner)
    def _gradient_step(self, module_id: str, columns: dict[str, Any]) -> dict[str, Tensor]:
        """Takes one gradient step of the mean of a population and returns metrics."""
        if self._losses[module_id] != EVOLUTION:
            return super()._gradient_step(module_id, columns)
        config, fitness, played_mask = self.config, columns[FITNESS], columns[PLAYED]
        module = self.module[module_id].unwrapped()
        mean = torch.cat([param.flatten() for param in self.policy_parameters(module_id)])
        scores = standardized(fitness, played_mask) * played_mask
        groups = config.num_envs_per_env_runner // config.meta_settings.copies
        agents = len(self._agents[module_id])
        total = mean.new_zeros(())
        # Every env runner has its own seed. Noise is regenerated from the seeds instead of being sent with the rollout.
        for seed in columns[SEED].unique().tolist():
            mask = columns[SEED] == seed
            noise = mirrored_noise(seed, groups, agents, len(mean))[columns[MEMBER][mask].cpu()].to(mean.device)
            total = total - expected_fitness(mean, noise, scores[mask], module.sigma)
        module_config = config.get_config_for_module(module_id)
        self._descend(module_id, POLICY, total, int(played_mask.sum()), module_config.grad_clip)
        self.metrics.log_value((module_id, MODULE_TRAIN_BATCH_SIZE_MEAN), len(fitness), reduce="mean")
        average = masked_mean(fitness, played_mask)
        return {"fitness_mean": average, "fitness_std": masked_mean((fitness - average).square(), played_mask).sqrt()}
