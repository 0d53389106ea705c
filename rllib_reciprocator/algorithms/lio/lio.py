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
    """Agents with a policy, and an incentive function: what they give each other for what these do.

    Source: Yang et al., "Learning to Incentivize Other Learning Agents", NeurIPS 2020. In an update policies take a
    gradient step on a first sample, with what they are given among their rewards; incentive functions then learn from a
    second one, by the policies after that step, what giving more would have been worth to the giver through it
    (:class:`LIOLearner`).

    Differs from the paper's code: many episodes an update instead of one; the gradient is computed without a graph
    through the policies' step, and each giver serves its own return where there are more than two; log-probabilities
    have exploration in them in both steps; where policies have critics, incentive functions are judged by a critic of
    extrinsic rewards of their own.
    """

    _pending: Sample | None = None

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> LIOConfig:
        """The default configuration."""
        return LIOConfig(algo_class=cls)

    @override(BatchedAlgorithm)
    def training_step(self) -> None:
        """Policies learn from a sample, incentive functions from what comes of it; several times."""
        config = self.config
        gives, reuses = config.looks_ahead(), config.reuse_samples
        for number in range(config.updates_per_iteration):
            is_last = number == config.updates_per_iteration - 1
            sample, self._pending = self._pending or self.sample(report=is_last and not gives), None
            self.learn(sample, phase=POLICIES_PHASE, report=is_last and not gives)
            self.sync()
            if gives:
                after = self.sample(report=is_last)
                self.learn(after, phase=INCENTIVES_PHASE, report=is_last)
                if reuses:
                    self._pending = after
                if is_last or not reuses:
                    self.sync()

    @override(BatchedAlgorithm)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, and the sample that policies learn from next if there is one."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._pending is not None and self._check_component(PENDING_SAMPLE, components, not_components):
            columns = {each.name: getattr(self._pending, each.name) for each in fields(Sample)}
            state[PENDING_SAMPLE] = tree.map_structure(lambda column: column.cpu().numpy(), columns)
        return state

    @override(BatchedAlgorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` returned."""
        super().set_state(state)
        if PENDING_SAMPLE in state:
            self._pending = Sample(**tree.map_structure(torch.as_tensor, state[PENDING_SAMPLE]))
