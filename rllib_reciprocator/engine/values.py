"""Values of policies' critics before and after every step of a rollout."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_reciprocator.engine.minibatches import (
    compute_in_chunks,
    flat_sequences,
    flatten_rows,
    memory_columns,
    sequence_columns,
)
from rllib_reciprocator.models import IS_FIRST

if TYPE_CHECKING:
    from rllib_reciprocator.engine.learner import BatchedLearner
    from rllib_reciprocator.engine.rollout_batch import ModuleColumns, RolloutBatch

# Maximum number of rows in one forward pass of a critic. Larger batches are split, so that value computation needs no
# more memory than a training step on a minibatch.
ROWS_AT_ONCE = 2**18
# Maps columns of rows to values, [rows, ..].
ValueFunction = Callable[..., Tensor]


class ValueEstimator:
    """Computes the critics' values before and after every step of a rollout."""

    def __init__(self, learner: BatchedLearner) -> None:
        """Collects the settings that determine where values end.

        Args:
            learner: The learner, with built modules.
        """
        config, context = learner.config, learner.context
        self.learner, self.context = learner, context
        self.steps, self.horizon = context.rollout_steps, context.game.horizon
        self.bootstraps = config.bootstrap_at_horizon
        # If True, values after the last step of a rollout are zero: episodes are complete and not bootstrapped.
        self.ends_with_rollout = context.whole_episodes and not self.bootstraps

    def compute(self, batch: RolloutBatch) -> tuple[Tensor, Tensor]:
        """Computes values before and after every step; zero for agents without a critic.

        Args:
            batch: The rollout, with ``ends``.

        Returns:
            Values and next values, both ``[B, T, N]``. The next value is zero where ``ends``, except for truncated
            episodes if ``bootstrap_at_horizon``: then it is the value of the last observation.
        """
        before = torch.zeros_like(batch.rewards)
        after = torch.zeros_like(before)
        for rule in self.learner.rules:
            for module_id in rule.module_ids:
                if not (rule.needs_critic and module_id in batch.modules):
                    continue
                values, last, final = self._values_of(module_id, batch)
                next_values = self.next_values(module_id, batch, values, last, final)
                for slot, seat in enumerate(self.context.seats_of(module_id)):
                    agent = seat.agent
                    if len(self.context.module_ids[agent]) == 1 or batch.pool_members is None:
                        before[..., agent], after[..., agent] = values[:, slot], next_values[:, slot]
                    else:
                        mask = batch.pool_members[..., agent] == seat.member
                        before[..., agent] = torch.where(mask, values[:, slot], before[..., agent])
                        after[..., agent] = torch.where(mask, next_values[:, slot], after[..., agent])
        return before, after

    def next_values(
        self, module_id: str, batch: RolloutBatch, values: Tensor, last: Tensor, final: Tensor | None
    ) -> Tensor:
        """Computes the values after every step of the agents that a module plays.

        Args:
            module_id: Id of the module.
            batch: The rollout.
            values: ``[B, S, T, ..]``, values before every step.
            last: ``[B, S, ..]``, bootstrap values after the last step of the rollout.
            final: ``[B, S, K, ..]``, values of the last observation of episodes that are truncated inside the rollout,
                for the k-th interval of ``horizon`` steps; None if there are none.

        Returns:
            Next values, ``[B, S, T, ..]``.
        """
        ends = self.learner.members.ends_of(module_id, batch)[:, None]
        truncated = (batch.truncated & ~batch.terminated)[:, None]
        if values.dim() > 3:
            ends, truncated = ends[..., None], truncated[..., None]
        next_values = torch.cat([values[:, :, 1:], last[:, :, None]], 2)
        end_values = torch.zeros_like(values)
        if self.bootstraps:
            if final is not None:
                end_values = final[:, :, torch.arange(self.steps, device=final.device) // self.horizon]
            # Environments are reset with the next step, so the observation after the last step is still that of the
            # episode that ended.
            end_values[:, :, -1] = last
            end_values = torch.where(truncated, end_values, 0.0)
        return torch.where(ends, end_values, next_values)

    def _values_of(self, module_id: str, batch: RolloutBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns a module's values before each step, after the last step, and at truncations.

        Args:
            module_id: Id of the module.
            batch: The rollout.

        Returns:
            Values ``[B, S, T]``, bootstrap values ``[B, S]``, and ``[B, S, K]`` values at truncations inside the
            rollout, or None.
        """
        columns = batch.modules[module_id]
        if Columns.VF_PREDS in columns.steps and self.ends_with_rollout:
            values = columns.steps[Columns.VF_PREDS]
            return values, torch.zeros_like(values[..., 0]), None
        module = self.learner.unwrapped(module_id)
        if module_id in self.learner.with_memory:
            values = self._with_memory(module, batch, columns)
            return values[..., :-1], values[..., -1], None
        return self.without_memory(module.compute_values, columns)

    def without_memory(self, compute: ValueFunction, columns: ModuleColumns) -> tuple[Tensor, Tensor, Tensor | None]:
        """Computes the values of a module without recurrent state.

        Args:
            compute: Maps columns of rows to values, ``[rows, ..]``.
            columns: Columns of the module.

        Returns:
            Values before each step ``[B, S, T, ..]``, bootstrap values after the last step ``[B, S, ..]``, and values
            at truncations inside the rollout ``[B, S, K, ..]``, or None if these were not sampled.
        """
        num_agents = columns.steps[Columns.OBS].shape[1]
        rows = flatten_rows(columns.steps, 3)
        values = compute_in_chunks(compute, rows, ROWS_AT_ONCE).unflatten(0, (-1, num_agents, self.steps))
        last_rows = flatten_rows(columns.last, 2)
        last_values = compute_in_chunks(compute, last_rows, ROWS_AT_ONCE).unflatten(0, (-1, num_agents))
        if not columns.final:
            return values, last_values, None
        horizons = next(iter(columns.final.values())).shape[2]
        final_rows = flatten_rows(columns.final, 3)
        end_values = compute_in_chunks(compute, final_rows, ROWS_AT_ONCE)
        return values, last_values, end_values.unflatten(0, (-1, num_agents, horizons))

    def _with_memory(self, module: Any, batch: RolloutBatch, columns: ModuleColumns) -> Tensor:
        """Computes a recurrent module's values before each step and after the last, ``[B, S, T + 1]``.

        The last inputs are appended to each sequence, so that one pass also returns the bootstrap value.

        Args:
            module: The module.
            batch: The rollout.
            columns: Columns of the module.
        """
        sequences = sequence_columns(batch, columns)
        # The appended step continues the sequence: the recurrent state is not reset before it.
        not_first = torch.zeros_like(sequences[IS_FIRST][:, :1])
        extended_columns = {
            name: torch.cat([sequences[name].unflatten(0, (-1, self.steps)), value[:, None]], 1)
            for name, value in flatten_rows(columns.last, 2).items()
        }
        extended_columns[IS_FIRST] = torch.cat([sequences[IS_FIRST], not_first], 1)
        extended_columns |= memory_columns(sequences)
        num_sequences = len(extended_columns[IS_FIRST])
        size = max(1, ROWS_AT_ONCE // (self.steps + 1))
        values = []
        for start in range(0, num_sequences, size):
            chunk = {name: value[start : start + size] for name, value in extended_columns.items()}
            values.append(module.compute_values(flat_sequences(chunk)).view(-1, self.steps + 1))
        return torch.cat(values).unflatten(0, (len(batch.rewards), -1))
