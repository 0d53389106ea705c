"""Mixins that save and restore state that RLlib's checkpoints lack.

RLlib restores weights, optimizer states and counters. It restores neither the current value of an entropy coefficient
that follows a schedule nor adaptive KL coefficients (Ray 2.60). Its weight synchronization after a restore skips env
runners that still have a request in flight, as is the case right after they were built; these env runners then sample
with untrained policies.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import (
    COMPONENT_ENV_TO_MODULE_CONNECTOR,
    COMPONENT_LEARNER,
    COMPONENT_MODULE_TO_ENV_CONNECTOR,
    COMPONENT_RL_MODULE,
)
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME, WEIGHTS_SEQ_NO

from rllib_reciprocator.utils.distributed import rank_of_learner

COEFFICIENTS = "coefficients"
_ENTROPY, _KL = "entropy", "kl"


def get_coefficients(learner: Learner) -> dict[str, dict[str, float]]:
    """Returns the current entropy and KL coefficients of a learner's modules.

    Args:
        learner: A learner of PPO, APPO or IMPALA; other learners have no such coefficients.

    Returns:
        The coefficients, by kind and module id. Entropy coefficients without a schedule are left out, because they are
        settings.
    """
    # Both dicts are copied, because learner threads of asynchronous algorithms add modules at their first update.
    schedulers = getattr(learner, "entropy_coeff_schedulers_per_module", {})
    kl_coefficients = getattr(learner, "curr_kl_coeffs_per_module", {})
    return {
        _ENTROPY: {
            module_id: float(scheduler.get_current_value())
            for module_id, scheduler in list(schedulers.items())
            if scheduler.use_schedule
        },
        _KL: {module_id: float(value) for module_id, value in list(kl_coefficients.items())},
    }


def set_coefficients(learner: Learner, coefficients: dict[str, dict[str, float]]) -> None:
    """Sets the coefficients that :func:`get_coefficients` returned.

    Skips modules that the learner does not have, and entropy coefficients without a schedule in its config.

    Args:
        learner: The learner; it has to be built.
        coefficients: The coefficients, by kind and module id.
    """
    # Both dicts are default dicts, which create a missing entry when it is read.
    for module_id, value in coefficients[_ENTROPY].items():
        if module_id in learner.module and hasattr(learner, "entropy_coeff_schedulers_per_module"):
            scheduler = learner.entropy_coeff_schedulers_per_module[module_id]
            if scheduler.use_schedule:
                scheduler.get_current_value().fill_(value)
    for module_id, value in coefficients[_KL].items():
        if module_id in learner.module and hasattr(learner, "curr_kl_coeffs_per_module"):
            learner.curr_kl_coeffs_per_module[module_id].fill_(value)


class ExactRestoreLearner(TorchLearner):
    """Learner mixin that adds entropy and KL coefficients to the learner's state."""

    @override(Learner)
    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: object,
    ) -> dict[str, Any]:
        """Returns the learner's state and its coefficients."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(COEFFICIENTS, components, not_components):
            state[COEFFICIENTS] = get_coefficients(self)
        return state

    @override(Learner)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the learner's state; checkpoints of earlier versions have no coefficients."""
        super().set_state(state)
        if COEFFICIENTS in state:
            set_coefficients(self, state[COEFFICIENTS])


class ExactRestore(Algorithm):
    """Algorithm mixin with which a restored algorithm continues exactly as without interruption.

    Restores the coefficients of each learner separately: RLlib restores the state of one learner in all of them, but
    KL coefficients adapt to the data of each learner. Sends the restored weights to remote env runners before they
    sample.
    """

    @override(Algorithm)
    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: object,
    ) -> dict[str, Any]:
        """Returns the algorithm's state and, with several learners, the coefficients of each learner."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        group = self.learner_group
        has_several_learners = group is not None and not group.is_local and len(group) > 1
        if has_several_learners and self._check_component(COEFFICIENTS, components, not_components):
            by_rank = dict(result.get() for result in group.foreach_learner(_coefficients_of_rank))
            state[COEFFICIENTS] = [by_rank[rank] for rank in sorted(by_rank)]
        return state

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the algorithm's state; the number of learners and env runners may differ from the saved one."""
        super().set_state(state)
        if COEFFICIENTS in state and self.learner_group is not None:
            for result in self.learner_group.foreach_learner(_set_rank, by_rank=state[COEFFICIENTS]):
                result.get()
        self._send_state_to_env_runners()

    @override(Algorithm)
    def restore_from_path(self, path: object, *args: object, **kwargs: object) -> None:
        """Restores the algorithm, or the component ``component`` of it."""
        super().restore_from_path(path, *args, **kwargs)
        if kwargs.get("component"):
            # Without a component, set_state() has sent the state already.
            self._send_state_to_env_runners()

    def _send_state_to_env_runners(self) -> None:
        """Sends weights, connector states and the step counter to remote env runners and waits until they are set.

        Actors process requests in order, so that requests in flight are processed before this one.
        """
        groups = [group for group in (self.env_runner_group, self.eval_env_runner_group) if group is not None]
        groups = [group for group in groups if group.num_remote_env_runners()]
        if not groups or self.learner_group is None:
            return
        weights = self.learner_group.get_state(components=f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}")
        state = {name: weights[COMPONENT_LEARNER][name] for name in (COMPONENT_RL_MODULE, WEIGHTS_SEQ_NO)}
        runner = self.env_runner
        if runner is not None:
            connectors = (COMPONENT_ENV_TO_MODULE_CONNECTOR, COMPONENT_MODULE_TO_ENV_CONNECTOR)
            local = runner.get_state(components=list(connectors))
            state |= {name: local[name] for name in connectors if name in local}
        steps = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0)
        state[NUM_ENV_STEPS_SAMPLED_LIFETIME] = int(steps)
        reference = ray.put(state)
        for group in groups:
            group.foreach_env_runner(
                _set_runner_state,
                kwargs={"state": reference},
                local_env_runner=False,
                timeout_seconds=self.config.sample_timeout_s,
            )


def _coefficients_of_rank(learner: Learner) -> tuple[int, dict[str, dict[str, float]]]:
    return rank_of_learner(), get_coefficients(learner)


def _set_rank(learner: Learner, by_rank: list[dict[str, dict[str, float]]]) -> None:
    set_coefficients(learner, by_rank[rank_of_learner() % len(by_rank)])


def _set_runner_state(runner: EnvRunner, state: dict[str, Any]) -> None:
    # Ray resolves references only if they are direct arguments of an actor's method.
    state = ray.get(state) if isinstance(state, ray.ObjectRef) else state
    # An env runner skips weights with a sequence number that it has already. Weights without one are always set.
    runner.set_state({COMPONENT_RL_MODULE: state[COMPONENT_RL_MODULE]})
    runner.set_state(state)
