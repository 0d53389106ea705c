"""The LIO algorithm."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
import tree
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from rllib_reciprocator.algorithms.lio.config import LIOConfig
from rllib_reciprocator.algorithms.lio.learner import INCENTIVES_PHASE, POLICIES_PHASE
from rllib_reciprocator.engine.algorithm import BatchedAlgorithm
from rllib_reciprocator.engine.sample import Sample

PENDING_SAMPLE = "pending_sample"


class LIO(BatchedAlgorithm):
    """Agents with a policy and an incentive function, which maps the actions of co-players to rewards for them.

    Source: Yang et al., "Learning to Incentivize Other Learning Agents", NeurIPS 2020. In an update, policies take a
    gradient step on a first rollout, with the incentives that they receive among their rewards. Incentive functions are
    then trained on a second rollout, sampled with the updated policies: their gradient is that of the giver's return
    with respect to the incentives, through the policies' step (:class:`LIOLearner`).

    Differs from the paper's code: an update uses many episodes instead of one. The gradient is computed without a graph
    through the policies' step, and with more than two agents each giver maximizes its own return. Log-probabilities
    include exploration in both steps. If policies have critics, incentive functions are trained with separate critics
    of extrinsic rewards.
    """

    _pending: Sample | None = None

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> LIOConfig:
        """Returns the default configuration."""
        return LIOConfig(algo_class=cls)

    @override(BatchedAlgorithm)
    def training_step(self) -> None:
        """Trains policies on one rollout and incentive functions on the next, ``updates_per_iteration`` times."""
        config = self.config
        looks_ahead, reuse_samples = config.looks_ahead(), config.reuse_samples
        for update_index in range(config.updates_per_iteration):
            is_last = update_index == config.updates_per_iteration - 1
            sample, self._pending = self._pending or self.sample(report=is_last and not looks_ahead), None
            self.learn(sample, phase=POLICIES_PHASE, report=is_last and not looks_ahead)
            self.sync()
            if looks_ahead:
                incentive_sample = self.sample(report=is_last)
                self.learn(incentive_sample, phase=INCENTIVES_PHASE, report=is_last)
                if reuse_samples:
                    self._pending = incentive_sample
                if is_last or not reuse_samples:
                    self.sync()

    @override(BatchedAlgorithm)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Returns RLlib's state and, if there is one, the rollout that policies are trained on next."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._pending is not None and self._check_component(PENDING_SAMPLE, components, not_components):
            columns = {field.name: getattr(self._pending, field.name) for field in fields(Sample)}
            state[PENDING_SAMPLE] = tree.map_structure(lambda column: column.cpu().numpy(), columns)
        return state

    @override(BatchedAlgorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores a state that :meth:`get_state` returned."""
        super().set_state(state)
        if PENDING_SAMPLE in state:
            self._pending = Sample(**tree.map_structure(torch.as_tensor, state[PENDING_SAMPLE]))
