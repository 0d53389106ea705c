"""A run whose weights or losses are no numbers any more ends with an error that names the player."""

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

# What two layers multiply with such weights is still a number; training never leads near them and back.
LARGEST_WEIGHT = 1e10
# Figure of a module that says itself whether one of its losses was no number.
NOT_FINITE = "not_finite"
_LOSSES = ("total_loss", "policy_loss", "vf_loss", "entropy", "loss", "balance_loss", "qf_loss", "actor_loss")


class DivergedError(RuntimeError):
    """Weights or losses are not finite."""


class DivergenceGuard(Algorithm):
    """Mixed into an algorithm: an iteration fails if anything that it learned is not finite.

    So no result and no checkpoint is of players whose networks put out no numbers: these would seem to take their first
    action, which in most games is to cooperate. Checkpoints of earlier iterations stay.
    """

    @override(Algorithm)
    def step(self) -> dict[str, Any]:
        """One iteration.

        Raises:
            DivergedError: If a player, or an influence estimator, diverged.
        """
        result = super().step()
        check_finite(self, result)
        return result


class DivergenceCallback(RLlibCallback):
    """The same for algorithms that nothing is mixed into."""

    def on_train_result(self, *, algorithm: Algorithm, result: dict[str, Any], **kwargs: Any) -> None:
        """Called by the algorithm after each iteration."""
        if not isinstance(algorithm, DivergenceGuard):
            check_finite(algorithm, result)


def check_finite(algorithm: Algorithm, result: dict[str, Any]) -> None:
    """Checks losses and weights after an iteration.

    Args:
        algorithm: The algorithm.
        result: Of the iteration.

    Raises:
        DivergedError: If one is not finite, or a weight is so large that the next forward pass may not be.
    """
    iteration = algorithm.iteration + 1
    missing: dict[str, str] = {}
    for module_id, figures in result.get(LEARNER_RESULTS, {}).items():
        if figures.get(NOT_FINITE, 0.0) > 0.0:
            raise DivergedError(_message(module_id, iteration, "its loss is not a number"))
        # RLlib reports no number for a loss of an iteration in which nothing was learned.
        for name in _LOSSES if figures.get(NUM_MODULE_STEPS_TRAINED, 0.0) > 0.0 else ():
            value = figures.get(name)
            if isinstance(value, float) and not math.isfinite(value):
                missing.setdefault(module_id, f"its {name} is {value}")
    # Where learners run in a thread, results may be taken between the steps of an update and its losses: there a loss
    # has to be missing twice in a row.
    threaded = isinstance(algorithm.config, IMPALAConfig)
    before = getattr(algorithm, "_without_loss", ())
    for module_id, what in missing.items():
        if not threaded or module_id in before:
            raise DivergedError(_message(module_id, iteration, what))
    algorithm._without_loss = tuple(missing)
    if algorithm.learner_group is None:
        return
    for found in algorithm.learner_group.foreach_learner(_diverged).ignore_errors():
        if problem := found.get():
            module_id, what = problem
            raise DivergedError(_message(module_id, iteration, what))


def _message(module_id: str, iteration: int, what: str) -> str:
    return (
        f"{module_id} diverged in iteration {iteration}: {what}; a smaller lr or a grad_clip may help"
        " (checkpoints of earlier iterations are kept)"
    )


@torch.no_grad()
def _diverged(learner: Learner) -> tuple[str, str] | None:
    """A module that diverged and how; None if none did. Looks at all weights in one go and copies one number."""
    weights = {
        module_id: [*module.parameters(), *(each for each in module.buffers() if each.is_floating_point())]
        for module_id, module in learner.module.items()
        if isinstance(module, torch.nn.Module)
    }
    largest = {key: torch.stack(torch._foreach_norm(own, torch.inf)).amax() for key, own in weights.items() if own}
    if not largest or bool((torch.stack(list(largest.values())) < LARGEST_WEIGHT).all()):
        return None
    return next(
        (key, "its weights are not finite" if not value.isfinite() else f"a weight of it is {value:.3g}")
        for key, value in largest.items()
        if not value < LARGEST_WEIGHT
    )
