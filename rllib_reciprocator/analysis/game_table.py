"""Players of our games at a table: thousands of games at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from rllib_reciprocator.algorithms.reciprocator import ReciprocatorConfig
from rllib_reciprocator.analysis.animation import Film
from rllib_reciprocator.analysis.memory_one import cooperation_by_last_actions
from rllib_reciprocator.analysis.seating import has_estimator, seat
from rllib_reciprocator.analysis.trace import step_rows
from rllib_reciprocator.experiments.errors import UserError
from rllib_reciprocator.experiments.intervals import mean_with_interval
from rllib_reciprocator.players import RECIPROCATOR, AxelrodModule, keys_by_seat
from rllib_reciprocator.rewards import reciprocal_reward
from rllib_reciprocator.rollout import BatchedEnvRunner, ColumnarSample

MOST_GAMES = 4096


class GameTable:
    """Players of one of our games; thousands of games at once."""

    def __init__(
        self, checkpoint: Path, config: ReciprocatorConfig, players: dict[str, str], seed: int, explore: bool
    ) -> None:
        """Seats them; see :func:`open_table`."""
        trained = {player.seat: player for player in config.seated()}
        try:
            players = {seat: players[key] for seat, key in keys_by_seat(players, list(trained)).items()}
        except ValueError as error:
            raise UserError(f"--{error}") from None
        self.mapping = {
            name: f"checkpoint/{checkpoint}#{name}" if player.learns else player.written
            for name, player in trained.items()
        } | players
        self.names = {name: player.name for name, player in trained.items()} | players
        self.reciprocators = [
            name for name, player in trained.items() if player.kind == RECIPROCATOR and name not in players
        ]
        self.checkpoint, self.config, self.seed, self.explore = checkpoint, config, seed, explore
        self._runner(games=1)

    def _runner(self, games: int, *, influence: bool = False, runner_class: Any = BatchedEnvRunner) -> Any:
        try:
            return seat(
                self.config,
                self.mapping,
                games=games,
                seed=self.seed,
                estimator=self.checkpoint,
                influence=influence and has_estimator(self.checkpoint),
                runner_class=runner_class,
            )
        except UserError as error:
            raise UserError(f"--{error}" if str(error).startswith("players") else str(error)) from None

    def evaluate(self, episodes: int) -> dict[str, Any]:
        """Plays episodes; see :meth:`Table.evaluate`."""
        runner = self._runner(min(episodes, MOST_GAMES))
        samples = runner.sample(num_episodes=episodes, explore=self.explore)
        returns = torch.cat([sample.rewards.sum(1) for sample in samples])[:episodes]
        totals = {name: torch.cat([each.outcomes[name] for each in samples])[:episodes] for name in samples[0].outcomes}
        figures = {"return": returns, **runner.game.summarize(totals, runner.game.horizon)}
        return {
            "checkpoint": str(self.checkpoint),
            "env": self.config.env,
            "env_config": dict(self.config.env_config),
            "episodes": len(returns),
            "steps": runner.game.horizon,
            "players": {
                agent: {
                    "player": self.names[agent],
                    **{name: mean_with_interval(values[:, index]) for name, values in figures.items()},
                }
                for index, agent in enumerate(runner.game.agents)
            },
        }

    def trace(self, episodes: int) -> pd.DataFrame:
        """Plays episodes, the same as :meth:`evaluate`; see :meth:`Table.trace`.

        Influence is told where the checkpoint has an estimator.
        """
        runner = self._runner(min(episodes, MOST_GAMES), influence=True)
        samples = runner.sample(num_episodes=episodes, explore=self.explore)
        games = runner.num_envs
        rows = [self._rows(runner, sample, number * games) for number, sample in enumerate(samples)]
        whole = pd.concat(rows, ignore_index=True)
        return whole[whole["episode"] < episodes]

    def _rows(self, runner: BatchedEnvRunner, sample: ColumnarSample, first_episode: int) -> pd.DataFrame:
        game, known = runner.game, runner.estimates_influence
        called = np.array(game.action_names)
        return step_rows(
            game.agents,
            {agent: called[sample.actions[..., k].flatten().numpy()] for k, agent in enumerate(game.agents)},
            sample.rewards,
            influence=sample.influence if known else None,
            balance=sample.balance if known else None,
            reciprocal=reciprocal_reward(sample.balance, sample.given, runner.config.reciprocal_rule())
            if known
            else None,
            reciprocators=self.reciprocators,
            first_episode=first_episode,
        )

    def film(self) -> Film:
        """Plays one episode; see :meth:`Table.film`."""
        runner = self._runner(1, runner_class=_FilmingRunner)
        game = runner.game
        film = Film([f"{agent} ({self.names[agent]})" for agent in game.agents])
        for _ in range(game.horizon):
            sample = runner.play(1, self.explore)
            film.pictures += [runner.first_picture] if not film.pictures else []
            film.pictures.append(game.render_rgb())
            film.actions.append([game.action_names[action] for action in sample.actions[0, 0].tolist()])
            film.rewards.append(sample.rewards[0, 0].tolist())
            if bool(sample.terminated[0, 0]):
                break
        return film

    def policy(self) -> pd.DataFrame | None:
        """P(cooperate | last joint action); see :meth:`Table.policy`. The Axelrod library's players are left out."""
        runner = self._runner(1)
        if runner.game.payoffs is None or runner.game.num_agents != 2:
            return None
        modules = {agent: runner.module[agent] for agent in runner.game.agents}
        return cooperation_by_last_actions(
            {agent: module for agent, module in modules.items() if not isinstance(module, AxelrodModule)}
        )


class _FilmingRunner(BatchedEnvRunner):
    """Keeps a picture of where an episode began."""

    def start_episodes(self) -> None:
        super().start_episodes()
        self.first_picture = self.game.render_rgb()
