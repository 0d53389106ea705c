"""Callback that logs the outcomes of this package's games on RLlib's env runners."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_reciprocator.utils.metric_names import OUTCOMES


def summed_outcomes(episodes: Sequence[MultiAgentEpisode], agents: Sequence[str]) -> dict[str, torch.Tensor]:
    """Sums the outcomes of a game over the steps of episodes or episode chunks.

    Returns:
        Summed outcomes ``[N]``, by name.
    """
    totals: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(len(agents)))
    for episode in episodes:
        for index, agent in enumerate(agents):
            agent_episode = episode.agent_episodes.get(agent)
            # The first info of a chunk belongs to the last step before it.
            for info in agent_episode.get_infos(slice(1, len(agent_episode) + 1)) if agent_episode is not None else ():
                for name, value in info["outcomes"].items():
                    totals[name][index] += value
    return dict(totals)


class EpisodeOutcomesCallback(RLlibCallback):
    """Callback that logs ``outcomes/AGENT/RATE`` of each sample, computed from the infos of the game.

    Rates that are defined for whole episodes only are logged for the episodes that ended in the sample.
    """

    def __init__(self, **kwargs: object) -> None:
        """Initializes the callback without ongoing episodes."""
        super().__init__(**kwargs)
        # Summed outcomes and number of steps so far of ongoing episodes, by episode id.
        self._ongoing: dict[str, tuple[dict[str, torch.Tensor], int]] = {}

    def on_sample_end(
        self,
        *,
        env_runner: EnvRunner,
        metrics_logger: MetricsLogger,
        samples: list[MultiAgentEpisode],
        **kwargs: object,
    ) -> None:
        """Logs the rates of the sampled episodes."""
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
        self, game: MultiAgentEnv, samples: Sequence[MultiAgentEpisode], agents: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """Computes the rates that are defined for whole episodes only, over the episodes that ended in the sample.

        Returns:
            Rates ``[N]``, by name; empty if no episode ended.
        """
        previous_totals, self._ongoing = self._ongoing, {}
        ended_episodes: list[tuple[dict[str, torch.Tensor], int]] = []
        for episode in samples:
            # A sample may contain several chunks of an episode, so that earlier chunks may be of this sample already.
            earlier_totals, steps = (self._ongoing if episode.id_ in self._ongoing else previous_totals).pop(
                episode.id_, ({}, 0)
            )
            totals = summed_outcomes([episode], agents)
            totals = {name: total + earlier_totals.get(name, 0.0) for name, total in totals.items()} or earlier_totals
            chunk = totals, steps + len(episode)
            if episode.is_done:
                ended_episodes.append(chunk)
            else:
                self._ongoing[episode.id_] = chunk
        if not ended_episodes:
            return {}
        total = {
            name: sum((totals[name] for totals, _ in ended_episodes), torch.zeros(len(agents)))
            for name in ended_episodes[0][0]
        }
        rates = game.summarize(total, sum(steps for _, steps in ended_episodes))
        return {name: rates[name] for name in sorted(game.episode_outcomes)}
