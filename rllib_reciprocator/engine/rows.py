"""Rows of modules as losses take them, with advantages and value targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from rllib_reciprocator.engine.minibatches import flatten_rows, sequence_columns
from rllib_reciprocator.utils.distributed import averaged_over_learners, deviation, standardized

if TYPE_CHECKING:
    from rllib_reciprocator.engine.learner import BatchedLearner
    from rllib_reciprocator.engine.rollout_batch import RolloutBatch
    from rllib_reciprocator.engine.update_rule import UpdateInfo


class RowBuilder:
    """Builds the rows of modules from a rollout, ordered as ``(b * S + s) * T + t``."""

    def __init__(self, learner: BatchedLearner) -> None:
        """Stores the learner.

        Args:
            learner: The learner, with built modules.
        """
        self._learner, self._context = learner, learner.context
        # Rollouts of whole meta-episodes contain several episodes of fixed length.
        self._episode_steps = self._context.rollout_steps
        if self._context.samples_meta_episodes:
            self._episode_steps = self._context.game.horizon

    def of_module(self, module_id: str, batch: RolloutBatch) -> dict[str, Tensor]:
        """Returns the columns of a module's rows as losses take them, with a loss mask unless all rows count.

        Args:
            module_id: Id of the module.
            batch: The rollout.
        """
        columns = batch.modules[module_id]
        has_memory = module_id in self._learner.with_memory
        rows = sequence_columns(batch, columns) if has_memory else flatten_rows(columns.steps, 3)
        seats = self._context.seats_of(module_id)
        mask = self._context.mask(batch).of_module([seat.agent for seat in seats], [seat.member for seat in seats])
        if mask is not None:
            rows[Columns.LOSS_MASK] = mask.flatten()
        return rows

    def with_advantages(
        self, module_id: str, batch: RolloutBatch, info: UpdateInfo, *, keep_scale: bool
    ) -> dict[str, Tensor]:
        """Returns a module's rows with the advantages and value targets of its agents.

        Args:
            module_id: Id of the module.
            batch: The rollout, with advantages and value targets.
            info: Arguments of the update, whose ``advantage_scales`` are set in place.
            keep_scale: If True, stores the standard deviation of normalized advantages.
        """
        rows, agents = self.of_module(module_id, batch), self._context.agents_of(module_id)
        advantages = batch.advantages[..., agents].transpose(1, 2).flatten()
        if self._learner.config.get_config_for_module(module_id).normalize_advantages:
            mask = rows.get(Columns.LOSS_MASK)
            if keep_scale:
                info.advantage_scales[module_id] = deviation(advantages, (0,), mask)
            advantages = standardized(advantages, mask)
        targets = batch.value_targets[..., agents].transpose(1, 2).flatten()
        return {**rows, Postprocessing.ADVANTAGES: advantages, Postprocessing.VALUE_TARGETS: targets}

    def num_episodes(self, rows: Mapping[str, Tensor], *, all_learners: bool = False) -> float:
        """Returns the number of episodes that a module plays in a rollout, counted once per agent.

        If a sequence of T steps is not exactly one episode, the number of steps that count is divided by the length of
        an episode.

        Args:
            rows: Columns of the module's rows.
            all_learners: If True, counts the rollouts of all learners instead of this learner's.
        """
        mask, steps = rows.get(Columns.LOSS_MASK), self._episode_steps
        episodes: float
        if mask is None:
            episodes = len(rows[Postprocessing.ADVANTAGES]) // steps
        elif self._context.completes_episodes:
            episodes = int(mask.view(-1, steps).any(1).sum())
        else:
            episodes = float(mask.sum()) / steps
        if not all_learners:
            return episodes
        return averaged_over_learners([torch.zeros(1, device=self._learner.device)], episodes)
