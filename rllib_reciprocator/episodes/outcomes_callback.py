"""Outcomes of our games as metrics, where RLlib's own env runners play them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_reciprocator.metric_names import OUTCOMES


def summed_outcomes(episodes: Sequence[MultiAgentEpisode], agents: Sequence[str]) -> dict[str, torch.Tensor]:
    """Outcomes summed over the steps of episodes or chunks of one of our games, ``[N]`` by name."""
    totals: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(len(agents)))
    for episode in episodes:
        for index, agent in enumerate(agents):
            own = episode.agent_episodes.get(agent)
            # The first of a chunk's infos is that of the last step before it.
            for info in own.get_infos(slice(1, len(own) + 1)) if own is not None else ():
                for name, value in info["outcomes"].items():
                    totals[name][index] += value
    return dict(totals)


class EpisodeOutcomesCallback(RLlibCallback):
    """Logs ``outcomes/AGENT/RATE`` of every sample, from what the games say of each step in their infos."""

    def on_sample_end(
        self, *, env_runner: Any, metrics_logger: MetricsLogger, samples: list[MultiAgentEpisode], **kwargs: Any
    ) -> None:
        """Called by the env runner after each sample."""
        game = env_runner.env.envs[0].unwrapped
        agents = game.possible_agents
        steps = sum(map(len, samples))
        if not steps:
            return
        for name, rates in game.summarize(summed_outcomes(samples, agents), steps).items():
            for agent, rate in zip(agents, rates.tolist(), strict=True):
                metrics_logger.log_value((OUTCOMES, agent, name), rate, reduce="mean")
