"""Check that stops training when a loss or weight becomes NaN or infinite, and names the module."""

from __future__ import annotations

import math
from typing import Any

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.learner.learner import Learner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import LEARNER_RESULTS, NUM_MODULE_STEPS_TRAINED

# Products of two layers with weights below this limit are finite. Training does not recover from weights near it.
LARGEST_WEIGHT = 1e10
# Metric of modules that check themselves; it is positive if one of the module's losses was not finite.
NOT_FINITE = "not_finite"
_LOSSES = ("total_loss", "policy_loss", "vf_loss", "entropy", "loss", "balance_loss", "qf_loss", "actor_loss")


class DivergedError(RuntimeError):
    """Error raised if weights or losses are not finite."""


class DivergenceGuard(Algorithm):
    """Algorithm mixin that raises an error if weights or losses are not finite after a training iteration.

    Results and checkpoints of diverged players are therefore never written. Networks with NaN outputs would always take
    the first action, which in most games is to cooperate. Checkpoints of earlier iterations are kept.
    """

    @override(Algorithm)
    def step(self) -> dict[str, Any]:
        """Runs one training iteration.

        Raises:
            DivergedError: If a player or an influence estimator diverged.
        """
        result = super().step()
        check_finite(self, result)
        return result


class DivergenceCallback(RLlibCallback):
    """Callback with the check of :class:`DivergenceGuard` for algorithms without this mixin."""

    def on_train_result(self, *, algorithm: Algorithm, result: dict[str, Any], **kwargs: object) -> None:
        """Checks losses and weights after a training iteration."""
        if not isinstance(algorithm, DivergenceGuard):
            check_finite(algorithm, result)


def check_finite(algorithm: Algorithm, result: dict[str, Any]) -> None:
    """Checks losses and weights after a training iteration.

    Args:
        algorithm: The algorithm.
        result: The result of the iteration.

    Raises:
        DivergedError: If a loss or weight is not finite, or a weight is so large that the next forward pass may
            overflow.
    """
    iteration = algorithm.iteration + 1
    non_finite: dict[str, str] = {}
    for module_id, metrics in result.get(LEARNER_RESULTS, {}).items():
        if metrics.get(NOT_FINITE, 0.0) > 0.0:
            raise DivergedError(_message(module_id, iteration, "its loss is not a number"))
        # RLlib reports NaN as loss of an iteration without updates.
        for name in _LOSSES if metrics.get(NUM_MODULE_STEPS_TRAINED, 0.0) > 0.0 else ():
            value = metrics.get(name)
            if isinstance(value, float) and not math.isfinite(value):
                non_finite.setdefault(module_id, f"its {name} is {value}")
    # If learners run in a thread, results may be reduced after an update has logged its steps and before it has logged
    # its losses. A loss that is NaN therefore counts only in two consecutive iterations.
    is_threaded = isinstance(algorithm.config, IMPALAConfig)
    previous_ids = getattr(algorithm, "_without_loss", ())
    for module_id, problem in non_finite.items():
        if not is_threaded or module_id in previous_ids:
            raise DivergedError(_message(module_id, iteration, problem))
    algorithm._without_loss = tuple(non_finite)
    if algorithm.learner_group is None:
        return
    for learner_result in algorithm.learner_group.foreach_learner(_find_divergence).ignore_errors():
        if diverged_module := learner_result.get():
            module_id, problem = diverged_module
            raise DivergedError(_message(module_id, iteration, problem))


def _message(module_id: str, iteration: int, problem: str) -> str:
    return (
        f"{module_id} diverged in iteration {iteration}: {problem}; a smaller lr or a grad_clip may help"
        " (checkpoints of earlier iterations are kept)"
    )


@torch.no_grad()
def _find_divergence(learner: Learner) -> tuple[str, str] | None:
    """Returns id and problem of a module that diverged; None if no module diverged.

    The weights of each module are reduced by one fused operation. If no module diverged, a single value is copied from
    the device.
    """
    weights = {
        module_id: [*module.parameters(), *(buffer for buffer in module.buffers() if buffer.is_floating_point())]
        for module_id, module in learner.module.items()
        if isinstance(module, torch.nn.Module)
    }
    largest = {
        module_id: torch.stack(torch._foreach_norm(tensors, torch.inf)).amax()
        for module_id, tensors in weights.items()
        if tensors
    }
    if not largest or bool((torch.stack(list(largest.values())) < LARGEST_WEIGHT).all()):
        return None
    return next(
        (module_id, "its weights are not finite" if not value.isfinite() else f"its largest weight is {value:.3g}")
        for module_id, value in largest.items()
        if not value < LARGEST_WEIGHT
    )
