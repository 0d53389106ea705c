"""Outcomes of our games as metrics, where RLlib's own env runners play them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_reciprocator.utils.metric_names import OUTCOMES


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
    """Logs ``outcomes/AGENT/RATE`` of every sample, from what the games say of each step in their infos.

    Rates that are defined for whole episodes alone are logged for the episodes that ended with the sample.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Has seen no episode yet."""
        super().__init__(**kwargs)
        # Outcomes so far, and steps, of the episodes under way, by id.
        self._running: dict[str, tuple[dict[str, torch.Tensor], int]] = {}

    def on_sample_end(
        self, *, env_runner: Any, metrics_logger: MetricsLogger, samples: list[MultiAgentEpisode], **kwargs: Any
    ) -> None:
        """Called by the env runner after each sample."""
        game = env_runner.env.envs[0].unwrapped
        agents = game.possible_agents
        steps = sum(map(len, samples))
        if not steps:
            return
        rates = game.summarize(summed_outcomes(samples, agents), steps)
        if game.episode_outcomes:
            rates = {name: rate for name, rate in rates.items() if name not in game.episode_outcomes}
            rates |= self._episode_outcomes(game, samples, agents)
        for name, values in rates.items():
            for agent, rate in zip(agents, values.tolist(), strict=True):
                metrics_logger.log_value((OUTCOMES, agent, name), rate, reduce="mean")

    def _episode_outcomes(
        self, game: Any, samples: Sequence[MultiAgentEpisode], agents: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """Computes the rates that are defined for whole episodes, over the episodes that ended; empty if none did."""
        running, self._running = self._running, {}
        ended: list[tuple[dict[str, torch.Tensor], int]] = []
        for episode in samples:
            # A sample may hold several chunks of an episode.
            earlier, steps = (self._running if episode.id_ in self._running else running).pop(episode.id_, ({}, 0))
            totals = summed_outcomes([episode], agents)
            totals = {name: total + earlier.get(name, 0.0) for name, total in totals.items()} or earlier
            chunk = totals, steps + len(episode)
            if episode.is_done:
                ended.append(chunk)
            else:
                self._running[episode.id_] = chunk
        if not ended:
            return {}
        total = {name: sum((totals[name] for totals, _ in ended), torch.zeros(len(agents))) for name in ended[0][0]}
        rates = game.summarize(total, sum(steps for _, steps in ended))
        return {name: rates[name] for name in sorted(game.episode_outcomes)}
