"""Training of the influence estimator: mixins for learners, and for algorithms that checkpoint its replay buffer."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.annotations import override
from torch import Tensor

from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import InfluenceEstimator
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID
from rllib_reciprocator.utils.distributed import all_reduce_max, rank_of_learner
from rllib_reciprocator.utils.divergence import NOT_FINITE
from rllib_reciprocator.utils.fixed_modules import FixedModulesLearner, has_parameters

REPLAY, REPLAYS = "replay", "replays"


class InfluenceLearner(FixedModulesLearner):
    """Learner mixin that trains the influence estimator on a replay buffer, in separate gradient steps.

    The replay buffer is part of the state of the algorithm (:class:`KeepsReplays`) or, with RLlib's own algorithms, of
    this learner, so that a resumed run continues with it.
    """

    @override(Learner)
    def build(self) -> None:
        """Builds modules and optimizers, and an empty replay buffer."""
        super().build()
        self._replay: list[dict[str, Tensor]] = []
        self._entropy = self.config.seed if self.config.seed is not None else np.random.SeedSequence().entropy

    @override(TorchLearner)
    def compute_gradients(self, loss_per_module: dict[str, Tensor], **kwargs: Any) -> dict[Any, Tensor]:
        """Returns the gradients of the updated modules only, since policies and estimator are updated separately."""
        gradients = super().compute_gradients(loss_per_module, **kwargs)
        return {name: gradient for name, gradient in gradients.items() if gradient is not None}

    @override(Learner)
    def should_module_be_updated(self, module_id: str, multi_agent_batch: Any = None) -> bool:
        """Returns True for the estimator, so that IMPALA and APPO send its weights to the env runners."""
        return module_id == INFLUENCE_MODULE_ID or super().should_module_be_updated(module_id, multi_agent_batch)

    @property
    def _estimates_by_gradient(self) -> bool:
        return has_parameters(self._estimator)

    @property
    def _estimator(self) -> InfluenceEstimator:
        return self.module[INFLUENCE_MODULE_ID].unwrapped()

    def _seed_update(self) -> int:
        """Seeds the order of the estimator's minibatches from the seed of the run and the number of the update.

        Returns:
            Another seed, derived from the same two numbers.
        """
        minibatch_seed, other_seed = np.random.SeedSequence([self._entropy, self._weights_seq_no]).generate_state(2)
        self._generator = torch.Generator().manual_seed(int(minibatch_seed))
        return int(other_seed)

    def _fit_estimator(self, rows: dict[str, Tensor], iteration: int) -> None:
        """Adds rows to the replay buffer and, every ``update_period_iters`` iterations, trains the estimator on it.

        Args:
            rows: Columns of this iteration's steps, as :meth:`InfluenceEstimator.replay_rows` returns them.
            iteration: Index of the iteration, from 0.
        """
        estimator, settings = self._estimator, self._estimator.model_config
        # Computed before the estimator is trained on these rows, so that they are losses on unseen data.
        losses = estimator.validation_losses(rows)
        not_finite = ~torch.stack(list(losses.values())).isfinite().all()
        self.metrics.log_dict({**losses, NOT_FINITE: not_finite.float()}, key=INFLUENCE_MODULE_ID, window=1)
        self._replay = [*self._replay, rows][-settings["buffer_iterations"] :]
        if iteration % settings["update_period_iters"] == 0:
            for minibatch in self._minibatches():
                self._update({INFLUENCE_MODULE_ID: minibatch})
            estimator.after_fit()

    def _minibatches(self) -> Iterator[dict[str, Tensor]]:
        """Yields the estimator's minibatches.

        The number is the same on all learners: one with more would wait forever for the gradients of the others.
        """
        replay = {name: torch.cat([rows[name] for rows in self._replay]) for name in self._replay[0]}
        count = all_reduce_max(self._estimator.num_minibatches(len(replay["actions"])), self._device)
        passes = (self._estimator.minibatches(replay, self._generator) for _ in repeat(None))
        yield from islice(chain.from_iterable(passes), count)

    def replay_rows(self) -> list[dict[str, np.ndarray]]:
        """Returns the replay buffer of this learner as arrays."""
        return [{name: values.cpu().numpy() for name, values in rows.items()} for rows in self._replay]

    def take_replay(self, replay: list[dict[str, np.ndarray]]) -> None:
        """Replaces the replay buffer of this learner."""
        self._replay = [
            {name: torch.as_tensor(values, device=self._device) for name, values in rows.items()} for rows in replay
        ]

    @override(Learner)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Returns RLlib's state, with the replay buffer unless it is part of the algorithm's state."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        in_algorithm = isinstance(self.config.algo_class, type) and issubclass(self.config.algo_class, KeepsReplays)
        if not in_algorithm and self._check_component(REPLAY, components, not_components):
            state[REPLAY] = self.replay_rows()
        return state

    @override(Learner)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state that :meth:`get_state` returned."""
        super().set_state(state)
        if REPLAY in state:
            self.take_replay(state[REPLAY])


class KeepsReplays(Algorithm):
    """Algorithm mixin whose state contains the replay buffers of all learners.

    RLlib saves the state of one learner for all learners, but each learner has a different replay buffer.
    """

    @override(Algorithm)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Returns RLlib's state and the replay buffers, one per learner."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(REPLAYS, components, not_components) and self.learner_group is not None:
            replay_by_rank = dict(result.get() for result in self.learner_group.foreach_learner(_replay_of))
            if any(replay_by_rank.values()):
                state[REPLAYS] = [replay_by_rank[rank] for rank in sorted(replay_by_rank)]
        return state

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state that :meth:`get_state` returned, with any number of learners."""
        super().set_state(state)
        if REPLAYS in state and self.learner_group is not None:
            shares = _shared_among(max(1, self.config.num_learners), state[REPLAYS])
            for result in self.learner_group.foreach_learner(_take_replay, shares=shares):
                result.get()


def _replay_of(learner: Learner) -> tuple[int, list[dict[str, np.ndarray]]]:
    return rank_of_learner(), learner.replay_rows() if isinstance(learner, InfluenceLearner) else []


def _take_replay(learner: Learner, shares: list[list[dict[str, np.ndarray]]]) -> None:
    if isinstance(learner, InfluenceLearner):
        learner.take_replay(shares[rank_of_learner()])


def _shared_among(count: int, replays: list[list[dict[str, np.ndarray]]]) -> list[list[dict[str, np.ndarray]]]:
    """Redistributes the replay buffers of all learners of a run to ``count`` learners."""
    if len(replays) == count:
        return replays
    # Each iteration is split on its own, so that all learners keep the same number of iterations.
    iterations = [
        {name: np.concatenate([rows[name] for rows in learner_rows]) for name in learner_rows[0]}
        for learner_rows in zip(*replays, strict=True)
    ]
    chunks = [{name: np.array_split(values, count) for name, values in rows.items()} for rows in iterations]
    return [[{name: values[k] for name, values in rows.items()} for rows in chunks] for k in range(count)]
