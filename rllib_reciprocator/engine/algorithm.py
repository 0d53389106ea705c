"""What all algorithms on the engine do in an iteration: sample, learn, send weights."""

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

# How often an iteration is tried in which no env runner brings anything, and how long lost ones have to come back.
TRIES, SECONDS_BETWEEN = 3, 5.0


class BatchedAlgorithm(DivergenceGuard, FailFastOnLostLearner, KeepsReplays, ExactRestore, VersionedCheckpoints, PPO):
    """Plays thousands of games at once, and learns from their steps.

    An iteration samples every game once, in all env runners; the learners do the rest (:class:`BatchedLearner`).
    """

    # Steps that were sampled since env runners last told of theirs.
    _untold_steps: int = 0
    _warned_of_timeouts: bool = False

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> BatchedConfig:
        """The default configuration."""
        return BatchedConfig(algo_class=cls)

    @override(Algorithm)
    def training_step(self) -> None:
        """Samples, learns, and sends the weights to the env runners."""
        self.learn(self.sample())
        self.sync()

    def sample(self, *, report: bool = True) -> Sample:
        """One sample of every env runner, side by side.

        A runner that raised starts new episodes with its next sample; one that was lost is restarted where the
        configuration says so. Until then an iteration has fewer games.

        Args:
            report: Whether the local env runner tells what it has logged since it last did.

        Raises:
            RuntimeError: If no env runner brings any, several times.
        """
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            problem = "all are lost, or took longer than sample_timeout_s"
            for left in reversed(range(TRIES)):
                brought, problems = self._brought(report)
                for problem in problems:
                    logger.warning("an env runner raised: %s", problem)
                if brought:
                    break
                if left:
                    logger.warning("no env runner brought a sample; trying again")
                    time.sleep(SECONDS_BETWEEN)
                    self.restore_env_runners(self.env_runner_group)
            else:
                raise RuntimeError(f"no env runner brought a sample in {TRIES} tries: {problem}")
            sample = concatenate([sample for samples, _ in brought for sample in samples])
            told = [results for _, results in brought if results is not None]
            if told:
                self.metrics.aggregate(told, key=ENV_RUNNER_RESULTS)
            self._untold_steps = 0 if told else self._untold_steps + sample.env_steps()
        return self._for_learners(sample)

    def _brought(self, report: bool) -> tuple[list[tuple[list[Sample], Any]], list[str]]:
        """Samples and metrics of the env runners that brought any, and what the others raised."""
        group = self.env_runner_group
        if not group.num_remote_env_runners():
            return [(self.env_runner.sample(), self.env_runner.get_metrics() if report else None)], []
        timeout = self.config.sample_timeout_s
        found = group.foreach_env_runner(_sampled, local_env_runner=False, timeout_seconds=timeout)
        # Env runners whose process ended are marked unhealthy; those that are late are not.
        self._log_timeouts(group.num_healthy_remote_workers() - len(found), group.num_remote_env_runners())
        return [each for each in found if not isinstance(each, str)], [each for each in found if isinstance(each, str)]

    def _log_timeouts(self, num_late: int, num_env_runners: int) -> None:
        """Logs how many env runners took longer than ``sample_timeout_s``, and warns the first time that any did."""
        self.metrics.log_value((ENV_RUNNER_RESULTS, NUM_TIMED_OUT), num_late, reduce="sum")
        if num_late > 0 and not self._warned_of_timeouts:
            self._warned_of_timeouts = True
            logger.warning(
                "%d of %d env runners took longer than sample_timeout_s (%g s): their environments are left out of the"
                " iteration. Raise sample_timeout_s, or lower num_envs_per_env_runner; %s/%s counts later ones",
                *(num_late, num_env_runners, self.config.sample_timeout_s, ENV_RUNNER_RESULTS, NUM_TIMED_OUT),
            )

    def learn(self, sample: Sample, *, report: bool = True, **settings: Any) -> None:
        """Lets the learners learn from a sample.

        Args:
            sample: The sample.
            report: Whether they tell what they have logged since they last did.
            **settings: Passed on to :meth:`BatchedLearner.update`.
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
        """Sends weights, and what else the env runners use of the learners, to them."""
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            if self.env_runner_group.num_remote_env_runners() or self.config.num_learners:
                self.env_runner_group.sync_weights(from_worker_or_learner_group=self.learner_group)
            else:
                self.env_runner.copy_weights(self.learner_group._learner)

    def _for_learners(self, sample: Sample) -> Sample:
        """As many games as the learners can share evenly, in whole groups; where a runner was lost some may be over."""
        games, learners = len(sample.rewards), max(1, self.config.num_learners)
        shared = games - games % (learners * self.config.group_size())
        if not shared:
            raise RuntimeError(f"{games} games cannot be shared by {learners} learners")
        if shared == games:
            return sample
        logger.warning("%d of %d games are left out, so that %d learners share evenly", games - shared, games, learners)
        return sample.first_games(shared)


def _sampled(runner: BatchedEnvRunner) -> tuple[list[Sample], Any] | str:
    """A runner's sample and metrics, or what it raised: RLlib would end its process, and say so in a log alone."""
    try:
        return runner.sample(), runner.get_metrics()
    except Exception as error:  # whatever a game raises
        runner.start_over()
        lines = str(error).strip().splitlines()
        return lines[-1] if lines else type(error).__name__
