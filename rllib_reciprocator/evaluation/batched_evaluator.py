"""Evaluates players of our games: thousands of games at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rllib_reciprocator.engine import BatchedConfig, BatchedEnvRunner, Sample
from rllib_reciprocator.evaluation.film import Film
from rllib_reciprocator.evaluation.frozen_runner import frozen_runner
from rllib_reciprocator.evaluation.memory_one import cooperation_by_last_actions, cooperation_in_context
from rllib_reciprocator.evaluation.trace import step_rows
from rllib_reciprocator.experiments.errors import UserError
from rllib_reciprocator.experiments.intervals import mean_with_interval
from rllib_reciprocator.intrinsic.incentives import INCENTIVES
from rllib_reciprocator.intrinsic.reciprocity import ReciprocitySettings, reciprocal_reward
from rllib_reciprocator.players import (
    CHECKPOINT,
    LEARNER,
    POOL,
    RECIPROCITY,
    AxelrodModule,
    LearningModule,
    keys_by_agent,
)
from rllib_reciprocator.utils.metric_names import INNER_EPISODES
from social_dilemmas.batched_game import BatchedGame

RETURN = "return"


class BatchedEvaluator:
    """Evaluates players of one of our games; thousands of games at once."""

    def __init__(
        self, checkpoint: Path, config: BatchedConfig, players: dict[str, str], seed: int, explore: bool
    ) -> None:
        """Puts them in their places; see :func:`open_evaluator`."""
        trained = {player.agent: player for player in config.assigned_players}
        try:
            players = {agent: players[key] for agent, key in keys_by_agent(players, list(trained)).items()}
        except ValueError as error:
            raise UserError(f"--{error}") from None
        self.mapping: dict[str, Any] = {
            player.agent: _frozen(checkpoint, player.pool_members, config.pool_members()[index], player.kind == POOL)
            for index, player in enumerate(config.assigned_players)
        } | players
        self.names = {name: player.name for name, player in trained.items()} | players
        # What reciprocal rewards are shown by: of agents whose own players reciprocated.
        self._shown = {name: player for name, player in trained.items() if player.reciprocates and name not in players}
        self.checkpoint, self.config, self.seed, self.explore = checkpoint, config, seed, explore
        self._runner(episodes=1)

    def _runner(self, episodes: int, *, watched: bool = False, runner_class: Any = BatchedEnvRunner) -> Any:
        try:
            return frozen_runner(
                self.config,
                self.mapping,
                episodes=episodes,
                seed=self.seed,
                watched_by=self.checkpoint if watched else None,
                runner_class=runner_class,
            )
        except UserError as error:
            raise UserError(f"--{error}" if str(error).startswith("players") else str(error)) from None

    def evaluate(self, episodes: int) -> dict[str, Any]:
        """Plays episodes; see :meth:`Evaluator.evaluate`.

        Where somebody learns between inner episodes these are played to the end of a meta-episode, and told by their
        number too; what is uncertain is then so between groups of copies.
        """
        runner = self._runner(episodes)
        inner, copies = runner.config.inner_episodes(), runner.config.group_size()
        samples = [sample.split(inner) for sample in runner.sample(num_episodes=episodes, explore=self.explore)]
        found = [episode_figures(runner.game, sample) for sample in samples]
        figures = {name: torch.cat([each[name] for each in found]) for name in found[0]}
        lengths = torch.cat([sample.in_first_episode().sum(1) for sample in samples]).float()
        by_number = {}
        if inner > 1:
            by_number = {name: values.unflatten(0, (-1, inner)).mean(0).t() for name, values in figures.items()}
            figures = {name: values.unflatten(0, (-1, inner * copies)).mean(1) for name, values in figures.items()}
        else:
            figures, lengths = {name: values[:episodes] for name, values in figures.items()}, lengths[:episodes]
        return {
            "checkpoint": str(self.checkpoint),
            "env": self.config.env,
            "env_config": dict(self.config.env_config),
            "episodes": len(lengths),
            "steps": float(lengths.mean()),
            "players": {
                agent: {
                    "player": self.names[agent],
                    **{name: mean_with_interval(values[:, index]) for name, values in figures.items()},
                    **(
                        {INNER_EPISODES: {name: values[index].tolist() for name, values in by_number.items()}}
                        if by_number
                        else {}
                    ),
                }
                for index, agent in enumerate(runner.game.agents)
            },
        }

    def trace(self, episodes: int) -> pd.DataFrame:
        """Plays episodes, the same as :meth:`evaluate`; see :meth:`Evaluator.trace`.

        Influence is told where the checkpoint has an estimator.
        """
        runner = self._runner(episodes, watched=True)
        inner = runner.config.inner_episodes()
        samples = [sample.split(inner) for sample in runner.sample(num_episodes=episodes, explore=self.explore)]
        games = runner.num_envs * inner
        rows = [self._rows(runner, sample, number * games) for number, sample in enumerate(samples)]
        whole = pd.concat(rows, ignore_index=True)
        return whole[whole["episode"] < episodes].reset_index(drop=True)

    def _rows(self, runner: BatchedEnvRunner, sample: Sample, first_episode: int) -> pd.DataFrame:
        game, joint = runner.game, sample.joint
        called = np.array(game.action_names)
        known = "influence" in joint
        return step_rows(
            game.agents,
            {agent: called[joint["actions"][..., k].flatten().numpy()] for k, agent in enumerate(game.agents)},
            sample.rewards,
            influence=joint["influence"] if known else None,
            balance=joint["balance"] if known else None,
            reciprocal=self._reciprocal(game, joint) if known else {},
            incentives=joint.get(INCENTIVES),
            played=sample.in_first_episode(),
            first_episode=first_episode,
        )

    def _reciprocal(self, game: BatchedGame, joint: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The reciprocal reward of each agent that reciprocates, ``[B, T]``, by its own form of it."""
        found = {}
        for index, agent in enumerate(game.agents):
            if agent in self._shown:
                settings = self.config.intrinsic_of(self._shown[agent], RECIPROCITY, game)
                assert isinstance(settings, ReciprocitySettings)
                found[agent] = reciprocal_reward(joint["balance"], joint["given"], settings.rule)[..., index]
        return found

    def films(self, episodes: int = 1) -> list[Film]:
        """Plays episodes, each in a copy of its own; see :meth:`Evaluator.films`."""
        runner = self._runner(episodes, runner_class=_FilmingRunner)
        game = runner.game
        films = [Film([f"{agent} ({self.names[agent]})" for agent in game.agents]) for _ in range(episodes)]
        going_on, inner = dict(enumerate(films)), runner.config.inner_episodes()
        for _ in range(game.horizon * inner):
            sample = runner.play(1, self.explore)
            for copy, film in list(going_on.items()):
                film.pictures += [] if film.pictures else [runner.first_pictures[copy]]
                # Games that ended start anew with the next step only, so that this is the picture of the end.
                film.pictures.append(game.render_rgb(copy))
                film.actions.append([game.action_names[k] for k in sample.joint["actions"][copy, 0].tolist()])
                film.rewards.append(sample.rewards[copy, 0].tolist())
                if INCENTIVES in sample.joint:
                    film.incentives.append(sample.joint[INCENTIVES][copy, 0].tolist())
                if inner == 1 and bool(sample.ended[copy, 0]):
                    del going_on[copy]
            if not going_on:
                break
        return films

    def policy(self) -> pd.DataFrame | None:
        """P(cooperate | last joint action); see :meth:`Evaluator.policy`.

        The Axelrod library's players, those that learn inside the environment, and pools are left out.
        """
        runner = self._runner(1)
        if runner.game.payoffs is None or runner.game.num_agents != 2:
            return None
        pool_members = zip(runner.game.agents, runner.config.pool_members(), strict=True)
        modules = {agent: runner.module[each[0][0]] for agent, each in pool_members if len(each) == 1}
        return cooperation_by_last_actions(
            {
                agent: module
                for agent, module in modules.items()
                if not isinstance(module.unwrapped(), AxelrodModule | LearningModule)
            }
        )

    def policy_in_context(self, episodes: int = 2000) -> pd.DataFrame | None:
        """How often players cooperated after each last joint action; see :meth:`Evaluator.policy_in_context`."""
        runner = self._runner(episodes)
        inner = runner.config.inner_episodes()
        if inner == 1 or runner.game.payoffs is None or runner.game.num_agents != 2:
            return None
        samples = runner.sample(num_episodes=episodes, explore=self.explore)
        played = torch.cat([sample.joint["actions"].unflatten(1, (inner, -1)) for sample in samples])
        return cooperation_in_context(played, runner.game.agents)


def episode_figures(game: BatchedGame, sample: Sample) -> dict[str, Tensor]:
    """Return, what was received and given, and outcomes of the first episode of every game, ``[B, N]`` by name.

    Games that end early start anew within a sample; what comes after the first end is of another episode.

    Args:
        game: The games.
        sample: As many steps as an episode can have, from the start.
    """
    played = sample.in_first_episode()[..., None]
    paid = {}
    if INCENTIVES in sample.joint:
        incentives = sample.joint[INCENTIVES]
        paid = {"received": (incentives.sum(-2) * played).sum(1), "given": (incentives.sum(-1) * played).sum(1)}
    totals = {name: (values * played).sum(1) for name, values in sample.outcomes.items()}
    return {RETURN: (sample.rewards * played).sum(1), **paid, **game.summarize(totals, played.sum(1))}


def _frozen(checkpoint: Path, players: Any, modules: list[tuple[str, float]], pooled: bool) -> Any:
    """How those who played an agent are named as players who no longer learn.

    Players that were frozen themselves are in the checkpoint too; the one that they are of need not be there any more.
    """
    written = {
        f"{CHECKPOINT}/{checkpoint}#{module_id}" if player.kind in (LEARNER, CHECKPOINT) else player.written: share
        for (player, share), (module_id, _) in zip(players, modules, strict=True)
    }
    return {POOL: written} if pooled else next(iter(written))


class _FilmingRunner(BatchedEnvRunner):
    """Keeps a picture of where each copy's first episode began."""

    first_pictures: list[np.ndarray]

    def _start_episodes(self) -> Tensor:
        begins = super()._start_episodes()
        if not hasattr(self, "first_pictures"):
            self.first_pictures = [self.game.render_rgb(copy) for copy in range(self.game.num_games)]
        return begins
