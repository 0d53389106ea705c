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
from rllib_reciprocator.engine.sample import Sample, concatenate
from rllib_reciprocator.intrinsic.reciprocity.learner import KeepsReplays
from rllib_reciprocator.utils.checkpoints import VersionedCheckpoints
from rllib_reciprocator.utils.divergence import DivergenceGuard
from rllib_reciprocator.utils.exact_restore import ExactRestore
from rllib_reciprocator.utils.fault_tolerance import FailFastOnLostLearner
from rllib_reciprocator.utils.metric_names import NUM_TIMED_OUT

logger = logging.getLogger(__name__)

# Number of attempts to sample if no env runner returns a sample, and the pause in between, in which lost env runners
# may restart.
TRIES, SECONDS_BETWEEN = 3, 5.0


class BatchedAlgorithm(DivergenceGuard, FailFastOnLostLearner, KeepsReplays, ExactRestore, VersionedCheckpoints, PPO):
    """Algorithm that trains on rollouts of thousands of parallel environments.

    An iteration samples one rollout of every environment of all env runners and updates the learners with it
    (:class:`BatchedLearner`).
    """

    # Environment steps sampled since the env runners last reported their metrics.
    _untold_steps: int = 0
    _warned_of_timeouts: bool = False

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> BatchedConfig:
        """Returns the default configuration."""
        return BatchedConfig(algo_class=cls)

    @override(Algorithm)
    def training_step(self) -> None:
        """Samples a rollout, updates the learners and synchronizes the weights of the env runners."""
        self.learn(self.sample())
        self.sync()

    def sample(self, *, report: bool = True) -> Sample:
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
            sample = concatenate([sample for samples, _ in results for sample in samples])
            metrics = [runner_metrics for _, runner_metrics in results if runner_metrics is not None]
            if metrics:
                self.metrics.aggregate(metrics, key=ENV_RUNNER_RESULTS)
            self._untold_steps = 0 if metrics else self._untold_steps + sample.env_steps()
        return self._for_learners(sample)

    def _collect_samples(self, report: bool) -> tuple[list[tuple[list[Sample], Any]], list[str]]:
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

    def learn(self, sample: Sample, *, report: bool = True, **settings: Any) -> None:
        """Updates the learners with a rollout.

        Args:
            sample: The rollout.
            report: If True, also collects the learners' metrics.
            **settings: Further arguments of :meth:`BatchedLearner.update`.
        """
        config = self.config
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            lifetime = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0)
            results = self.learner_group.update(
                training_data=TrainingData(batch=(sample.to("cpu") if config.num_learners else sample).to_batch()),
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: lifetime + self._untold_steps, ITERATION: self.iteration},
                num_epochs=config.num_epochs,
                minibatch_size=config.minibatch_size,
                shuffle_batch_per_epoch=config.shuffle_batch_per_epoch,
                report=report,
                **settings,
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

    def _for_learners(self, sample: Sample) -> Sample:
        """Drops environments that cannot be split evenly among the learners in whole groups.

        The configured numbers are divisible; the number of environments is smaller if an env runner was lost.

        Raises:
            RuntimeError: If there are too few environments for all learners.
        """
        environments, learners = len(sample.rewards), max(1, self.config.num_learners)
        count = environments - environments % (learners * self.config.group_size())
        if not count:
            raise RuntimeError(f"{environments} environments cannot be split among {learners} learners")
        if count == environments:
            return sample
        logger.warning(
            "%d of %d environments are dropped, so that the rest can be split evenly among %d learners",
            environments - count,
            environments,
            learners,
        )
        return sample.first_games(count)


def _sampled(runner: BatchedEnvRunner) -> tuple[list[Sample], Any] | str:
    """Returns an env runner's rollouts and metrics, or the last line of the error message if it raised.

    Errors are returned instead of raised, because RLlib would end its process and only log the error.
    """
    try:
        return runner.sample(), runner.get_metrics()
    except Exception as error:  # Environments and custom modules may raise any error.
        runner.start_over()
        lines = str(error).strip().splitlines()
        return lines[-1] if lines else type(error).__name__
