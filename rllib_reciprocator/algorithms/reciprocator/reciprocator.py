"""The Reciprocator algorithm."""

from __future__ import annotations

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPO
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
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

from rllib_reciprocator.algorithms.divergence import StopsWhenDiverged
from rllib_reciprocator.algorithms.lost_learners import FailsFastOnLostLearner
from rllib_reciprocator.algorithms.reciprocator.config import ReciprocatorConfig
from rllib_reciprocator.algorithms.reciprocator.learner import ITERATION
from rllib_reciprocator.rollout import concatenate


class Reciprocator(StopsWhenDiverged, FailsFastOnLostLearner, PPO):
    """PPO agents with an intrinsic reward for reciprocating the influence that others had on their return.

    Source: Zhou, Hong and Kao, "Reciprocal Reward Influence Encourages Cooperation From Self-Interested Agents",
    NeurIPS 2024. An iteration samples every game once, in all env runners, which compute influence and balance with
    the estimator as last synchronised; the learners do the rest (:class:`ReciprocatorLearner`).

    Differs from the paper's code: influence is measured with the estimator of the iteration before, so that a policy
    can be shown its balance while it acts; the clipped objective uses advantages fixed at the start of an update, as
    RLlib's PPO does, where that code takes the new value off the return in every epoch.
    """

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> ReciprocatorConfig:
        """The default configuration."""
        return ReciprocatorConfig()

    @override(Algorithm)
    def training_step(self) -> None:
        """Samples, learns, and sends the weights and the estimator to the env runners."""
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            samples, runner_results = synchronous_parallel_sample(
                worker_set=self.env_runner_group,
                max_env_steps=self.config.total_train_batch_size,
                sample_timeout_s=self.config.sample_timeout_s,
                _uses_new_env_runners=True,
                _return_metrics=True,
            )
            if not samples:
                return
            self.metrics.aggregate(runner_results, key=ENV_RUNNER_RESULTS)

        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            lifetime = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0)
            learner_results = self.learner_group.update(
                training_data=TrainingData(batch=concatenate(samples).to_batch()),
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: lifetime, ITERATION: self.iteration},
                num_epochs=self.config.num_epochs,
                minibatch_size=self.config.minibatch_size or self.config.train_batch_size_per_learner,
                shuffle_batch_per_epoch=self.config.shuffle_batch_per_epoch,
            )
            self.metrics.aggregate(learner_results, key=LEARNER_RESULTS)

        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self.env_runner_group.sync_weights(from_worker_or_learner_group=self.learner_group)
