"""Learners beside whose players there are fixed modules, or an influence estimator to fit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
import torch
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.annotations import override
from torch import Tensor

from rllib_reciprocator.distributed import most_of_learners
from rllib_reciprocator.estimators import InfluenceEstimator
from rllib_reciprocator.rollout import INFLUENCE_MODULE_ID

REPLAY = "replay"


def has_parameters(module: torch.nn.Module) -> bool:
    """Whether there is anything in a module that a gradient could change."""
    return next(module.parameters(), None) is not None


class FixedModulesLearner(TorchLearner):
    """Mixed into a learner class of RLlib's: some modules, as scripted players, have nothing that could be learned."""

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """An optimizer for every module that has parameters; PyTorch refuses one without."""
        if has_parameters(self.module[module_id]):
            super().configure_optimizers_for_module(module_id, config)

    @override(TorchLearner)
    def _make_modules_ddp_if_necessary(self) -> None:
        """Wraps the modules that have parameters for distributed training; PyTorch refuses the others."""
        fixed = {key: module for key, module in self.module.items() if not has_parameters(module)}
        for module_id in fixed:
            self.module.remove_module(module_id)
        super()._make_modules_ddp_if_necessary()
        for module_id, module in fixed.items():
            self.module.add_module(module_id, module)


class InfluenceLearner(FixedModulesLearner):
    """Mixed into a learner class of RLlib's: fits the estimator from a replay, in steps of its own.

    The replay is part of the learner's state, so that a resumed run goes on with it.
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
    def _estimator(self) -> InfluenceEstimator:
        return self.module[INFLUENCE_MODULE_ID].unwrapped()

    def _seed_update(self) -> np.ndarray:
        """Makes the order of the estimator's minibatches follow from the seed and the update's number.

        Returns:
            Four more numbers that follow from them.
        """
        seeds = np.random.SeedSequence([self._entropy, self._weights_seq_no]).generate_state(5)
        self._generator = torch.Generator().manual_seed(int(seeds[4]))
        return seeds[:4]

    def _fit_estimator(self, rows: dict[str, Tensor], iteration: int) -> None:
        """Takes rows into the replay and, if it is time, lets the estimator learn from all that are kept.

        Args:
            rows: What the estimator keeps of this iteration's steps.
            iteration: The iteration, from 0.
        """
        estimator, settings = self._estimator, self._estimator.model_config
        # Before it learns from them, so that the losses are those of a prediction.
        self.metrics.log_dict(estimator.validation_losses(rows), key=INFLUENCE_MODULE_ID, window=1)
        self._replay = [*self._replay, rows][-settings["buffer_iterations"] :]
        if iteration % settings["update_period_iters"] == 0:
            for minibatch in self._minibatches():
                self._update({INFLUENCE_MODULE_ID: minibatch})
            estimator.after_fit()

    def _minibatches(self) -> Iterator[dict[str, Tensor]]:
        """The estimator's minibatches; as many on every learner, or those with more would wait for ever."""
        replay = {name: torch.cat([rows[name] for rows in self._replay]) for name in self._replay[0]}
        count = most_of_learners(self._estimator.num_minibatches(len(replay["actions"])), self._device)
        passes = (self._estimator.minibatches(replay, self._generator) for _ in repeat(None))
        yield from islice(chain.from_iterable(passes), count)

    @override(Learner)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state and the estimator's replay."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(REPLAY, components, not_components):
            state[REPLAY] = [{name: values.cpu().numpy() for name, values in rows.items()} for rows in self._replay]
        return state

    @override(Learner)
    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` returned."""
        super().set_state(state)
        if REPLAY in state:
            self._replay = [
                {name: torch.as_tensor(values, device=self._device) for name, values in rows.items()}
                for rows in state[REPLAY]
            ]
