"""Callback that logs the mean reward per step of each agent on RLlib's env runners."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_reciprocator.utils.metric_names import REWARD_PER_STEP


class RewardPerStepCallback(RLlibCallback):
    """Callback that logs ``reward_per_step/AGENT``, the mean extrinsic reward per environment step of each sample.

    The metric does not depend on the length of episodes. Steps at which an agent is absent or not to move count with
    reward 0. In single-agent environments the agent is called ``default_agent``.
    """

    def on_sample_end(
        self, *, env_runner: EnvRunner, metrics_logger: MetricsLogger, samples: list[Any], **kwargs: object
    ) -> None:
        """Logs the mean reward per step of the sampled episodes."""
        steps = 0
        total: dict[str, float] = defaultdict(float)
        for episode in samples:
            steps += len(episode)
            for agent, agent_episode in getattr(episode, "agent_episodes", {"default_agent": episode}).items():
                total[str(agent)] += float(agent_episode.get_return())
        if steps:
            for agent, value in total.items():
                metrics_logger.log_value((REWARD_PER_STEP, agent), value / steps, reduce="mean")
