"""Games of a tournament, in this process or in Ray tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
import torch

from rllib_reciprocator.engine import BatchedConfig
from rllib_reciprocator.evaluation.batched_evaluator import RETURN, episode_metrics
from rllib_reciprocator.evaluation.frozen_runner import frozen_runner
from rllib_reciprocator.evaluation.tournament.entrants import Entrant

# Columns of the results that are not metrics.
ENTRANT, CO_PLAYERS, TURN, GAMES = "entrant", "others", "turn", "games"
# Metrics that only exist in groups with at least one agent that gives incentives.
_INCENTIVES = ("received", "given")


@dataclass(frozen=True)
class Tournament:
    """Settings of a tournament.

    Attributes:
        config: Configuration of the environment, the meta-episodes and the online learners.
        entrants: The entrants.
        games: Number of games per group.
        seed: Seed of all random numbers.
        explore: If True, actions are sampled; if False, the most probable ones are taken.
        pool: Names of the entrants that all entrants are ranked against. If empty, there is no ranking.
    """

    config: BatchedConfig
    entrants: tuple[Entrant, ...]
    games: int
    seed: int = 0
    explore: bool = True
    pool: tuple[str, ...] = ()

    def groups(self) -> list[tuple[int, ...]]:
        """Returns all groups of N entrants, by index, for the N agents of the game.

        A group may contain the same entrant more than once, so that entrants also play with themselves.
        """
        return list(combinations_with_replacement(range(len(self.entrants)), len(self.agents)))

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents of the game."""
        return self.config.make_game().agents

    def play(self, group: tuple[int, ...]) -> pd.DataFrame:
        """Plays the games of a group, in which every entrant plays every agent in turn.

        Args:
            group: Indices of the entrants.

        Returns:
            The results, with the columns that :func:`hold` returns.
        """
        # Rotations of the group. A group of one entrant with itself needs only one.
        turns = [group] if len(set(group)) == 1 else [group[k:] + group[:k] for k in range(len(group))]
        frames = []
        for turn, order in enumerate(turns):
            games = self.games // len(turns) + (turn < self.games % len(turns))
            if games:
                frames.append(self._play_rotation(order, games, turn))
        return pd.concat(frames, ignore_index=True)

    def _play_rotation(self, order: tuple[int, ...], games: int, turn: int) -> pd.DataFrame:
        entrants = [self.entrants[index] for index in order]
        # Seeded by turn and order, so that the results do not depend on which Ray task plays the group.
        seed = int(np.random.SeedSequence([self.seed, turn, *order]).generate_state(1)[0])
        players = {agent: entrant.player for agent, entrant in zip(self.agents, entrants, strict=True)}
        runner = frozen_runner(self.config, players, episodes=games, seed=seed)
        inner = runner.config.inner_episodes()
        # Games per independent sample: one meta-episode of all environments that share an online learner.
        size = inner * runner.config.group_size()
        batches = [
            episode_metrics(runner.game, sample.split_episodes(inner))
            for sample in runner.sample(num_episodes=games, explore=self.explore)
        ]
        metrics = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        if size == 1:
            # The last rollout may contain more games than requested.
            metrics = {name: values[:games] for name, values in metrics.items()}
        names = [entrant.name for entrant in entrants]
        frames = []
        for name in dict.fromkeys(names):
            agents = [agent for agent, player in enumerate(names) if player == name]
            co_players = names.copy()
            co_players.remove(name)
            # Means over the agents that the entrant plays and over the games of a sample.
            averages = {
                metric: values[:, agents].double().mean(1).unflatten(0, (-1, size)).mean(1).numpy()
                for metric, values in metrics.items()
            }
            samples = len(averages[RETURN])
            columns = {ENTRANT: name, CO_PLAYERS: [tuple(sorted(co_players))] * samples, TURN: turn, GAMES: size}
            frames.append(pd.DataFrame({**columns, **averages}))
        return pd.concat(frames, ignore_index=True)


def hold(settings: Tournament, workers: int = 0) -> pd.DataFrame:
    """Plays a tournament.

    Args:
        settings: The tournament.
        workers: Number of Ray tasks that play in parallel, for which Ray must be initialized. If 0, games are played in
            this process.

    Returns:
        One row per independent sample and entrant: ``entrant``; ``others``, the names of the entrants that play the
        other agents; ``turn``, the index of the rotation; ``games``, the number of games in the sample; and metrics,
        which are means over these games and over the agents that the entrant plays in them. A sample is one game. If
        policies remember inner episodes, it is one meta-episode; if an online learner plays, it is one meta-episode of
        all environments that share this learner.
    """
    groups = settings.groups()
    if workers:
        import ray

        reference = ray.put(settings)
        task = ray.remote(_play_all)
        # Task k plays groups k, k + workers, ..; the frames are put back into the order of the groups.
        results_by_task = ray.get([task.remote(reference, groups[k::workers]) for k in range(workers)])
        frames = [results_by_task[k % workers][k // workers] for k in range(len(groups))]
    else:
        frames = _play_all(settings, groups)
    results = pd.concat(frames, ignore_index=True)
    for name in _INCENTIVES:
        if name in results:
            # The metric is missing in groups in which no agent gives incentives.
            results[name] = results[name].fillna(0.0)
    return results


def _play_all(settings: Tournament, groups: Sequence[tuple[int, ...]]) -> list[pd.DataFrame]:
    return [settings.play(group) for group in groups]
