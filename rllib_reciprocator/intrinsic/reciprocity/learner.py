"""What fits an influence estimator: mixed into learners, and into the algorithms whose checkpoints keep its replay."""

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
    """Mixed into a learner class of RLlib's: fits the estimator from a replay, in steps of its own.

    The replay is part of the algorithm's state (:class:`KeepsReplays`), or where RLlib's own algorithm is used of this
    learner's, so that a resumed run goes on with it.
    """

    @override(Learner)
    def build(self) -> None:
        """Builds modules and optimizers, and an empty replay."""
        super().build()
        self._replay: list[dict[str, Tensor]] = []
        self._entropy = self.config.seed if self.config.seed is not None else np.random.SeedSequence().entropy

    @override(TorchLearner)
    def compute_gradients(self, loss_per_module: dict[str, Tensor], **kwargs: Any) -> dict[Any, Tensor]:
        """The gradients of the modules that take part; players and estimator are updated in turn, not together."""
        gradients = super().compute_gradients(loss_per_module, **kwargs)
        return {name: gradient for name, gradient in gradients.items() if gradient is not None}

    @override(Learner)
    def should_module_be_updated(self, module_id: str, multi_agent_batch: Any = None) -> bool:
        """The estimator always is: by this IMPALA and APPO know what to send to their env runners."""
        return module_id == INFLUENCE_MODULE_ID or super().should_module_be_updated(module_id, multi_agent_batch)

    @property
    def _estimates_by_gradient(self) -> bool:
        return has_parameters(self._estimator)

    @property
    def _estimator(self) -> InfluenceEstimator:
        return self.module[INFLUENCE_MODULE_ID].unwrapped()

    def _seed_update(self) -> int:
        """Makes the order of the estimator's minibatches follow from the seed and the update's number.

        Returns:
            Another seed that follows from them.
        """
        own, other = np.random.SeedSequence([self._entropy, self._weights_seq_no]).generate_state(2)
        self._generator = torch.Generator().manual_seed(int(own))
        return int(other)

    def _fit_estimator(self, rows: dict[str, Tensor], iteration: int) -> None:
        """Takes rows into the replay and, if it is time, lets the estimator learn from all that are kept.

        Args:
            rows: What the estimator keeps of this iteration's steps.
            iteration: The iteration, from 0.
        """
        estimator, settings = self._estimator, self._estimator.model_config
        # Before it learns from them, so that the losses are those of a prediction.
        losses = estimator.validation_losses(rows)
        not_finite = ~torch.stack(list(losses.values())).isfinite().all()
        self.metrics.log_dict({**losses, NOT_FINITE: not_finite.float()}, key=INFLUENCE_MODULE_ID, window=1)
        self._replay = [*self._replay, rows][-settings["buffer_iterations"] :]
        if iteration % settings["update_period_iters"] == 0:
            for minibatch in self._minibatches():
                self._update({INFLUENCE_MODULE_ID: minibatch})
            estimator.after_fit()

    def _minibatches(self) -> Iterator[dict[str, Tensor]]:
        """The estimator's minibatches; as many on every learner, or those with more would wait for ever."""
        replay = {name: torch.cat([rows[name] for rows in self._replay]) for name in self._replay[0]}
        count = all_reduce_max(self._estimator.num_minibatches(len(replay["actions"])), self._device)
        passes = (self._estimator.minibatches(replay, self._generator) for _ in repeat(None))
        yield from islice(chain.from_iterable(passes), count)

    def replay_rows(self) -> list[dict[str, np.ndarray]]:
        """The replay of this learner, as arrays."""
        return [{name: values.cpu().numpy() for name, values in rows.items()} for rows in self._replay]

    def take_replay(self, replay: list[dict[str, np.ndarray]]) -> None:
        """Goes on with a replay."""
        self._replay = [
            {name: torch.as_tensor(values, device=self._device) for name, values in rows.items()} for rows in replay
        ]

    @override(Learner)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, with the replay where the algorithm does not keep it."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        kept = isinstance(self.config.algo_class, type) and issubclass(self.config.algo_class, KeepsReplays)
        if not kept and self._check_component(REPLAY, components, not_components):
            state[REPLAY] = self.replay_rows()
        return state

    @override(Learner)
    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` returned."""
        super().set_state(state)
        if REPLAY in state:
            self.take_replay(state[REPLAY])


class KeepsReplays(Algorithm):
    """Mixed into an algorithm: the replays of all its learners are part of its state.

    RLlib takes the state of one learner for that of all, but each has a replay of its own.
    """

    @override(Algorithm)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state and the replays, one a learner."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(REPLAYS, components, not_components) and self.learner_group is not None:
            of_rank = dict(each.get() for each in self.learner_group.foreach_learner(_replay_of))
            if any(of_rank.values()):
                state[REPLAYS] = [of_rank[rank] for rank in sorted(of_rank)]
        return state

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` returned, for any number of learners."""
        super().set_state(state)
        if REPLAYS in state and self.learner_group is not None:
            shares = _shared_among(max(1, self.config.num_learners), state[REPLAYS])
            for done in self.learner_group.foreach_learner(_take_replay, shares=shares):
                done.get()


def _replay_of(learner: Learner) -> tuple[int, list[dict[str, np.ndarray]]]:
    return rank_of_learner(), learner.replay_rows() if isinstance(learner, InfluenceLearner) else []


def _take_replay(learner: Learner, shares: list[list[dict[str, np.ndarray]]]) -> None:
    if isinstance(learner, InfluenceLearner):
        learner.take_replay(shares[rank_of_learner()])


def _shared_among(count: int, replays: list[list[dict[str, np.ndarray]]]) -> list[list[dict[str, np.ndarray]]]:
    """Replays of some number of learners for another."""
    if len(replays) == count:
        return replays
    whole = [
        {name: np.concatenate([rows[name] for rows in of_iteration]) for name in of_iteration[0]}
        for of_iteration in zip(*replays, strict=True)
    ]
    parts = [{name: np.array_split(values, count) for name, values in rows.items()} for rows in whole]
    return [[{name: values[k] for name, values in rows.items()} for rows in parts] for k in range(count)]
