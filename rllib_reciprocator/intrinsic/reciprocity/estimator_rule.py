"""Training of the influence estimator on a replay buffer: as an update rule, and for learners of RLlib's algorithms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from torch import Tensor

from rllib_reciprocator.engine.advantages import returns_after
from rllib_reciprocator.engine.update_rule import Stage, Stats, UpdateInfo, UpdateRule
from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import InfluenceEstimator, Transition
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID
from rllib_reciprocator.utils.distributed import all_reduce_max
from rllib_reciprocator.utils.divergence import NOT_FINITE
from rllib_reciprocator.utils.fixed_modules import has_parameters

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    from rllib_reciprocator.engine.config import BatchedConfig
    from rllib_reciprocator.engine.context import RunContext
    from rllib_reciprocator.engine.learner import BatchedLearner
    from rllib_reciprocator.engine.rollout_batch import RolloutBatch

REPLAYS = "replays"
# Rows of one iteration as arrays, by column.
ReplayRows = dict[str, np.ndarray]


class EstimatorTrainer:
    """Trainer of an influence estimator with parameters, in separate gradient steps on a replay buffer.

    Attributes:
        replay: Rows of the last iterations, by column.
    """

    def __init__(self) -> None:
        """Starts with an empty replay buffer."""
        self.replay: list[dict[str, Tensor]] = []

    def fit(self, learner: TorchLearner, rows: dict[str, Tensor], iteration: int, generator: torch.Generator) -> None:
        """Adds rows to the replay buffer and, every ``update_period_iters`` iterations, trains the estimator on it.

        Args:
            learner: The learner.
            rows: Columns of this iteration's steps, as :meth:`InfluenceEstimator.replay_rows` returns them.
            iteration: Index of the iteration, from 0.
            generator: Random number generator of the order of minibatches.
        """
        estimator: InfluenceEstimator = learner.module[INFLUENCE_MODULE_ID].unwrapped()
        settings = estimator.model_config
        # Computed before the estimator is trained on these rows, so that they are losses on unseen data.
        losses = estimator.validation_losses(rows)
        not_finite = ~torch.stack(list(losses.values())).isfinite().all()
        learner.metrics.log_dict({**losses, NOT_FINITE: not_finite.float()}, key=INFLUENCE_MODULE_ID, window=1)
        self.replay = [*self.replay, rows][-settings["buffer_iterations"] :]
        if iteration % settings["update_period_iters"] == 0:
            for minibatch in self._minibatches(estimator, generator, learner._device):
                learner._update({INFLUENCE_MODULE_ID: minibatch})
            estimator.after_fit()

    def _minibatches(
        self, estimator: InfluenceEstimator, generator: torch.Generator, device: torch.device
    ) -> Iterator[dict[str, Tensor]]:
        """Yields the estimator's minibatches.

        The number is the same on all learners: one with more would wait forever for the gradients of the others.
        """
        replay = {name: torch.cat([rows[name] for rows in self.replay]) for name in self.replay[0]}
        count = all_reduce_max(estimator.num_minibatches(len(replay["actions"])), device)
        passes = (estimator.minibatches(replay, generator) for _ in repeat(None))
        yield from islice(chain.from_iterable(passes), count)

    def get_state(self) -> list[ReplayRows]:
        """Returns the replay buffer as arrays."""
        return [{name: values.cpu().numpy() for name, values in rows.items()} for rows in self.replay]

    def set_state(self, state: list[ReplayRows], device: torch.device) -> None:
        """Replaces the replay buffer by that of :meth:`get_state`."""
        self.replay = [
            {name: torch.as_tensor(values, device=device) for name, values in rows.items()} for rows in state
        ]


class EstimatorRule(UpdateRule):
    """Update rule of the influence estimator: counts for the tabular one, gradient steps for the others."""

    stage: ClassVar[Stage] = Stage.ESTIMATORS
    needs_critic: ClassVar[bool] = False
    state_key: ClassVar[str] = REPLAYS

    def __init__(self, context: RunContext, module_ids: Sequence[str], config: BatchedConfig) -> None:
        """Starts with an empty replay buffer."""
        super().__init__(context, module_ids, config)
        self.trainer = EstimatorTrainer()
        self._device = torch.device("cpu")

    def configure_optimizers(self, learner: BatchedLearner, module_id: str, config: AlgorithmConfig) -> None:
        """Registers Adam if the estimator has parameters."""
        if has_parameters(learner.unwrapped(module_id)):
            learner.register_default_optimizer(module_id, config)

    def on_built(self, learner: BatchedLearner) -> None:
        """Stores the device of the replay buffer."""
        self._device = learner.device

    def loss(
        self, learner: BatchedLearner, module_id: str, config: AlgorithmConfig, batch: dict[str, Any], out: Any
    ) -> Tensor:
        """Raises NotImplementedError: estimators compute their losses themselves (``SelfSupervisedLossAPI``)."""
        raise NotImplementedError

    def update(self, learner: BatchedLearner, batch: RolloutBatch, info: UpdateInfo) -> Stats:
        """Trains the estimator on the rollout and the replay buffer."""
        estimator: InfluenceEstimator = learner.unwrapped(INFLUENCE_MODULE_ID)
        future = torch.zeros_like(batch.extrinsic)
        if estimator.uses_future:
            future = returns_after(batch.extrinsic, batch.ended, self.context.gamma)
        steps = Transition(batch.columns["state"], batch.actions, batch.extrinsic, batch.time_left, future)
        flat = steps.flattened()
        if batch.valid is not None:
            flat = Transition(*(values[batch.valid.flatten()] for values in flat))
        stats = estimator.observe(flat, info.iteration)
        if has_parameters(estimator):
            rows = estimator.replay_rows(steps, batch.ended)
            if batch.valid is not None:
                rows = {name: values[batch.valid.flatten()] for name, values in rows.items()}
            self.trainer.fit(learner, rows, info.iteration, info.generators[self.stage])
        return {INFLUENCE_MODULE_ID: stats}

    def get_state(self) -> list[ReplayRows]:
        """Returns the replay buffer of this learner."""
        return self.trainer.get_state()

    def set_state(self, state: list[ReplayRows]) -> None:
        """Replaces the replay buffer of this learner."""
        self.trainer.set_state(state, self._device)

    @staticmethod
    def reshard(states: list[list[ReplayRows]], count: int) -> list[list[ReplayRows]]:
        """Redistributes the replay buffers of all learners of a run to ``count`` learners."""
        if len(states) == count:
            return states
        # Each iteration is split on its own, so that all learners keep the same number of iterations.
        iterations = [
            {name: np.concatenate([rows[name] for rows in learner_rows]) for name in learner_rows[0]}
            for learner_rows in zip(*states, strict=True)
        ]
        chunks = [{name: np.array_split(values, count) for name, values in rows.items()} for rows in iterations]
        return [[{name: values[k] for name, values in rows.items()} for rows in chunks] for k in range(count)]
