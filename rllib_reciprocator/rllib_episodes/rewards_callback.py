"""What agents get a step, where RLlib's own env runners play."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_reciprocator.utils.metric_names import REWARD_PER_STEP


class RewardPerStepCallback(RLlibCallback):
    """Logs ``reward_per_step/AGENT`` of every sample: the mean extrinsic reward of a step, however long episodes are.

    A step is one of the environment, in which an agent that is not there or not to move gets nothing. The one agent of
    an environment of Gymnasium's is ``default_agent``.
    """

    def on_sample_end(
        self, *, env_runner: Any, metrics_logger: MetricsLogger, samples: list[Any], **kwargs: Any
    ) -> None:
        """Called by the env runner after each sample."""
        steps = 0
        total: dict[str, float] = defaultdict(float)
        for episode in samples:
            steps += len(episode)
            for agent, own in getattr(episode, "agent_episodes", {"default_agent": episode}).items():
                total[str(agent)] += float(own.get_return())
        if steps:
            for agent, value in total.items():
                metrics_logger.log_value((REWARD_PER_STEP, agent), value / steps, reduce="mean")
