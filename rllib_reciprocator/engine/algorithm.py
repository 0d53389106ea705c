"""Base class of all algorithms on the batched engine: samples, updates and synchronizes weights."""

from __future__ import annotations

import logging
import time
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPO
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

from rllib_reciprocator.engine.config import BatchedConfig
from rllib_reciprocator.engine.env_runner import BatchedEnvRunner
from rllib_reciprocator.engine.learner import ITERATION
from rllib_reciprocator.engine.rollout_batch import RolloutBatch, concatenate
from rllib_reciprocator.engine.rule_states import KeepsRuleStates
from rllib_reciprocator.engine.update_rule import LEARN
from rllib_reciprocator.utils.checkpoints import VersionedCheckpoints
from rllib_reciprocator.utils.divergence import DivergenceGuard
from rllib_reciprocator.utils.exact_restore import ExactRestore
from rllib_reciprocator.utils.fault_tolerance import FailFastOnLostLearner
from rllib_reciprocator.utils.metric_names import NUM_TIMED_OUT

logger = logging.getLogger(__name__)

# Number of attempts to sample if no env runner returns a sample, and the pause in between, in which lost env runners
# may restart.
TRIES, SECONDS_BETWEEN = 3, 5.0
# Key of the algorithm's state.
PENDING_SAMPLE = "pending_sample"


class BatchedAlgorithm(
    DivergenceGuard, FailFastOnLostLearner, KeepsRuleStates, ExactRestore, VersionedCheckpoints, PPO
):
    """Algorithm that trains on rollouts of thousands of parallel environments.

    An iteration samples one rollout of every environment of all env runners and updates the learners with it
    (:class:`BatchedLearner`).
    """

    # Environment steps sampled since the env runners last reported their metrics.
    _unreported_steps: int = 0
    _warned_of_timeouts: bool = False
    # Rollout that policies are trained on next.
    _pending: RolloutBatch | None = None

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> BatchedConfig:
        """Returns the default configuration."""
        return BatchedConfig(algo_class=cls)

    @override(Algorithm)
    def training_step(self) -> None:
        """Runs the updates of an iteration: in each phase samples a rollout, updates the learners and syncs weights.

        With ``reuse_samples``, policies are trained next on the rollout of the last phase: it was sampled with the
        current policies.
        """
        config, phases = self.config, self.config.update_phases()
        for update in range(config.updates_per_iteration):
            for phase in phases:
                is_last = update == config.updates_per_iteration - 1 and phase == phases[-1]
                batch = self._take_pending() if phase == LEARN else None
                if batch is None:
                    batch = self.sample(report=is_last)
                self.learn(batch, phase=phase, report=is_last)
                if phase != LEARN and config.reuse_samples:
                    self._pending = batch
                if phase == LEARN or is_last or not config.reuse_samples:
                    self.sync()

    def _take_pending(self) -> RolloutBatch | None:
        """Returns the rollout that is to be reused, if there is one, and forgets it."""
        batch, self._pending = self._pending, None
        return batch

    def sample(self, *, report: bool = True) -> RolloutBatch:
        """Samples one rollout of every env runner.

        An env runner that raised starts new episodes with its next rollout. A lost env runner is restarted if the
        configuration enables restarts; until then iterations have fewer environments.

        Args:
            report: If True, also collects the local env runner's metrics.

        Returns:
            The rollouts of all env runners, concatenated along the environments.

        Raises:
            RuntimeError: If no env runner returns a rollout in several attempts.
        """
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            problem = "all are lost, or took longer than sample_timeout_s"
            for attempts_left in reversed(range(TRIES)):
                results, problems = self._collect_samples(report)
                for problem in problems:
                    logger.warning("An env runner raised an error: %s", problem)
                if results:
                    break
                if attempts_left:
                    logger.warning("No env runner returned a sample; trying again")
                    time.sleep(SECONDS_BETWEEN)
                    self.restore_env_runners(self.env_runner_group)
            else:
                raise RuntimeError(f"no env runner returned a sample in {TRIES} attempts: {problem}")
            batch = concatenate([batch for batches, _ in results for batch in batches])
            metrics = [runner_metrics for _, runner_metrics in results if runner_metrics is not None]
            if metrics:
                self.metrics.aggregate(metrics, key=ENV_RUNNER_RESULTS)
            self._unreported_steps = 0 if metrics else self._unreported_steps + batch.env_steps()
        return self._for_learners(batch)

    def _collect_samples(self, report: bool) -> tuple[list[tuple[list[RolloutBatch], Any]], list[str]]:
        """Collects the rollouts of all env runners.

        Args:
            report: If True, also collects the local env runner's metrics.

        Returns:
            Rollouts and metrics of the env runners that returned some, and the error messages of those that raised.
        """
        group = self.env_runner_group
        if not group.num_remote_env_runners():
            return [(self.env_runner.sample(), self.env_runner.get_metrics() if report else None)], []
        timeout = self.config.sample_timeout_s
        results = group.foreach_env_runner(_sampled, local_env_runner=False, timeout_seconds=timeout)
        # Env runners whose process ended are marked unhealthy; those that only timed out are not.
        self._log_timeouts(group.num_healthy_remote_workers() - len(results), group.num_remote_env_runners())
        return [res for res in results if not isinstance(res, str)], [res for res in results if isinstance(res, str)]

    def _log_timeouts(self, num_late: int, num_env_runners: int) -> None:
        """Logs the number of env runners that took longer than ``sample_timeout_s``, and warns the first time.

        Args:
            num_late: Number of env runners that timed out in this iteration.
            num_env_runners: Number of remote env runners.
        """
        self.metrics.log_value((ENV_RUNNER_RESULTS, NUM_TIMED_OUT), num_late, reduce="sum")
        if num_late > 0 and not self._warned_of_timeouts:
            self._warned_of_timeouts = True
            logger.warning(
                "%d of %d env runners took longer than sample_timeout_s (%g s): their environments are left out of the"
                " iteration. Raise sample_timeout_s, or lower num_envs_per_env_runner; %s/%s counts later ones",
                *(num_late, num_env_runners, self.config.sample_timeout_s, ENV_RUNNER_RESULTS, NUM_TIMED_OUT),
            )

    def learn(self, batch: RolloutBatch, *, phase: str = LEARN, report: bool = True) -> None:
        """Updates the learners with a rollout.

        Args:
            batch: The rollout.
            phase: Phase of the update.
            report: If True, also collects the learners' metrics.
        """
        config = self.config
        if config.num_learners:
            training_data = TrainingData(batches=batch.to("cpu").shard(config.num_learners))
        else:
            training_data = TrainingData(batch=batch)
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            num_reported_steps = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0)
            lifetime = num_reported_steps + self._unreported_steps
            results = self.learner_group.update(
                training_data=training_data,
                timesteps={
                    NUM_ENV_STEPS_SAMPLED_LIFETIME: lifetime,
                    ITERATION: self.iteration,
                },
                num_epochs=config.num_epochs,
                minibatch_size=config.minibatch_size,
                shuffle_batch_per_epoch=config.shuffle_batch_per_epoch,
                phase=phase,
                report=report,
            )
            if report:
                self.metrics.aggregate(results, key=LEARNER_RESULTS)

    def sync(self) -> None:
        """Synchronizes the weights of all modules from the learners to the env runners."""
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            if self.env_runner_group.num_remote_env_runners() or self.config.num_learners:
                self.env_runner_group.sync_weights(from_worker_or_learner_group=self.learner_group)
            else:
                self.env_runner.copy_weights(self.learner_group._learner)

    def _for_learners(self, batch: RolloutBatch) -> RolloutBatch:
        """Drops environments that cannot be split evenly among the learners in whole groups.

        The configured numbers are divisible; the number of environments is smaller if an env runner was lost.

        Raises:
            RuntimeError: If there are too few environments for all learners.
        """
        environments, learners = len(batch.rewards), max(1, self.config.num_learners)
        count = environments - environments % (learners * self.config.group_size())
        if not count:
            raise RuntimeError(f"{environments} environments cannot be split among {learners} learners")
        if count == environments:
            return batch
        logger.warning(
            "%d of %d environments are dropped, so that the rest can be split evenly among %d learners",
            environments - count,
            environments,
            learners,
        )
        return batch.first_environments(count)

    @override(Algorithm)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Returns RLlib's state and, if there is one, the rollout that policies are trained on next."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._pending is not None and self._check_component(PENDING_SAMPLE, components, not_components):
            state[PENDING_SAMPLE] = self._pending.get_state()
        return state

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state that :meth:`get_state` returned."""
        super().set_state(state)
        if PENDING_SAMPLE in state:
            self._pending = RolloutBatch.from_state(state[PENDING_SAMPLE])


def _sampled(runner: BatchedEnvRunner) -> tuple[list[RolloutBatch], Any] | str:
    """Returns an env runner's rollouts and metrics, or the last line of the error message if it raised.

    Errors are returned instead of raised, because RLlib would end its process and only log the error.
    """
    try:
        return runner.sample(), runner.get_metrics()
    except Exception as error:  # Environments and custom modules may raise any error.
        runner.start_over()
        lines = str(error).strip().splitlines()
        return lines[-1] if lines else type(error).__name__
