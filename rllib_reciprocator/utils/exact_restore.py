"""State that RLlib's checkpoints lack: coefficients that change during training, and weights in remote env runners.

RLlib restores weights, optimizers and counters. It does not restore the present value of an entropy coefficient that
follows a schedule, nor adaptive KL coefficients (Ray 2.60). Its weight synchronization after a restore is skipped for
env runners that still have a request in flight, as they have right after they were built; these then sample with
untrained policies.
"""

from __future__ import annotations

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
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME, WEIGHTS_SEQ_NO

from rllib_reciprocator.utils.distributed import rank_of_learner

COEFFICIENTS = "coefficients"
_ENTROPY, _KL = "entropy", "kl"


def get_coefficients(learner: Learner) -> dict[str, dict[str, float]]:
    """Returns the present entropy and KL coefficients of a learner's modules.

    Args:
        learner: A learner of PPO, APPO or IMPALA; others have no such coefficients.

    Returns:
        By kind and module id. Entropy coefficients that follow no schedule are left out: these are settings.
    """
    # Copied, because learner threads of asynchronous algorithms add modules when they first learn.
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

    Modules that the learner does not have, and entropy coefficients that follow no schedule in its configuration, are
    skipped.

    Args:
        learner: The learner, built.
        coefficients: By kind and module id.
    """
    # Both containers create a missing entry when it is read.
    for module_id, value in coefficients[_ENTROPY].items():
        if module_id in learner.module and hasattr(learner, "entropy_coeff_schedulers_per_module"):
            scheduler = learner.entropy_coeff_schedulers_per_module[module_id]
            if scheduler.use_schedule:
                scheduler.get_current_value().fill_(value)
    for module_id, value in coefficients[_KL].items():
        if module_id in learner.module and hasattr(learner, "curr_kl_coeffs_per_module"):
            learner.curr_kl_coeffs_per_module[module_id].fill_(value)


class ExactRestoreLearner(TorchLearner):
    """Learner mixin: the state of the learner includes its entropy and KL coefficients."""

    @override(Learner)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Returns RLlib's state and the coefficients."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(COEFFICIENTS, components, not_components):
            state[COEFFICIENTS] = get_coefficients(self)
        return state

    @override(Learner)
    def set_state(self, state: dict[str, Any]) -> None:
        """Sets what :meth:`get_state` returned; checkpoints of earlier versions have no coefficients."""
        super().set_state(state)
        if COEFFICIENTS in state:
            set_coefficients(self, state[COEFFICIENTS])


class ExactRestore(Algorithm):
    """Algorithm mixin: a restored algorithm continues as if it had not been interrupted.

    Each learner gets its own coefficients back (RLlib gives the state of one learner to all, but KL coefficients adapt
    to the data of each), and remote env runners have the restored weights before they sample.
    """

    @override(Algorithm)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Returns RLlib's state and, with several learners, the coefficients of each."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        group = self.learner_group
        several = group is not None and not group.is_local and len(group) > 1
        if several and self._check_component(COEFFICIENTS, components, not_components):
            by_rank = dict(result.get() for result in group.foreach_learner(_coefficients_of_rank))
            state[COEFFICIENTS] = [by_rank[rank] for rank in sorted(by_rank)]
        return state

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        """Sets what :meth:`get_state` returned, for any number of learners and env runners."""
        super().set_state(state)
        if COEFFICIENTS in state and self.learner_group is not None:
            for result in self.learner_group.foreach_learner(_set_rank, by_rank=state[COEFFICIENTS]):
                result.get()
        self._send_state_to_env_runners()

    @override(Algorithm)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Restores the algorithm, or the part of it that ``component`` names."""
        super().restore_from_path(path, *args, **kwargs)
        if kwargs.get("component"):
            # Otherwise set_state() was called.
            self._send_state_to_env_runners()

    def _send_state_to_env_runners(self) -> None:
        """Sends weights, connector states and the step counter to remote env runners, and waits until they have them.

        Actors process requests in the order in which they were sent, so that none that is in flight comes later.
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


def _set_runner_state(runner: Any, state: Any) -> None:
    # Method calls resolve references by themselves only as direct arguments of an actor's method.
    state = ray.get(state) if isinstance(state, ray.ObjectRef) else state
    # A runner skips weights whose sequence number it has already; without one it always takes them.
    runner.set_state({COMPONENT_RL_MODULE: state[COMPONENT_RL_MODULE]})
    runner.set_state(state)
