"""Evaluation of players in batched games, in thousands of parallel environments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rllib_reciprocator.engine import BatchedConfig, BatchedEnvRunner, RolloutBatch, StepTracker
from rllib_reciprocator.engine.player_mapping import LEARNER, POOL, keys_by_agent
from rllib_reciprocator.evaluation.frozen_runner import frozen_runner
from rllib_reciprocator.evaluation.memory_one import cooperation_by_last_actions, cooperation_in_context
from rllib_reciprocator.evaluation.trace import step_rows
from rllib_reciprocator.evaluation.video import Video
from rllib_reciprocator.intrinsic.incentives import INCENTIVES
from rllib_reciprocator.intrinsic.reciprocity import ReciprocitySettings, reciprocal_reward
from rllib_reciprocator.intrinsic.reciprocity.settings import RECIPROCITY
from rllib_reciprocator.players import CHECKPOINT, AxelrodModule, LearningModule
from rllib_reciprocator.results.intervals import mean_with_interval
from rllib_reciprocator.utils.errors import UserError
from rllib_reciprocator.utils.metric_names import INNER_EPISODES
from social_dilemmas.batched_game import BatchedGame

RETURN = "return"


class BatchedEvaluator:
    """Evaluator of players in one of this package's games, in thousands of parallel environments."""

    def __init__(
        self, checkpoint: Path, config: BatchedConfig, players: dict[str, str], seed: int, explore: bool
    ) -> None:
        """Assigns the players to the agents; see :func:`open_evaluator`."""
        trained_players = {player.agent: player for player in config.assigned_players}
        try:
            players = {agent: players[key] for agent, key in keys_by_agent(players, list(trained_players)).items()}
        except ValueError as error:
            raise UserError(f"--{error}") from None
        self.mapping: dict[str, Any] = {
            player.agent: _frozen(checkpoint, player.pool_members, config.pool_members()[index], player.kind == POOL)
            for index, player in enumerate(config.assigned_players)
        } | players
        self.names = {name: player.name for name, player in trained_players.items()} | players
        # Players whose reciprocal rewards are in traces: those that received them in training and are not replaced.
        self._reciprocators = {
            name: player
            for name, player in trained_players.items()
            if RECIPROCITY in player.intrinsic and name not in players
        }
        self.checkpoint, self.config, self.seed, self.explore = checkpoint, config, seed, explore
        self._runner(episodes=1)

    def _runner(self, episodes: int, *, with_estimator: bool = False) -> BatchedEnvRunner:
        try:
            return frozen_runner(
                self.config,
                self.mapping,
                episodes=episodes,
                seed=self.seed,
                watched_by=self.checkpoint if with_estimator else None,
            )
        except UserError as error:
            raise UserError(f"--{error}" if str(error).startswith("players") else str(error)) from None

    def __repr__(self) -> str:
        """Returns the class, the checkpoint and the seed."""
        return f"{type(self).__name__}({str(self.checkpoint)!r}, seed={self.seed})"

    def evaluate(self, episodes: int) -> dict[str, Any]:
        """Plays episodes; see :meth:`Evaluator.evaluate`.

        With online learners or policies that remember inner episodes, whole meta-episodes are played, and metrics are
        also reported by inner episode. Confidence intervals are then those over groups of environments.
        """
        runner = self._runner(episodes)
        num_inner, group_size = runner.config.inner_episodes(), runner.config.group_size()
        samples = [
            sample.split_episodes(num_inner) for sample in runner.sample(num_episodes=episodes, explore=self.explore)
        ]
        metrics_by_sample = [episode_metrics(runner.game, sample) for sample in samples]
        metrics = {name: torch.cat([batch[name] for batch in metrics_by_sample]) for name in metrics_by_sample[0]}
        lengths = torch.cat([sample.in_first_episode().sum(1) for sample in samples]).float()
        by_inner_episode = {}
        if num_inner > 1:
            by_inner_episode = {
                name: values.unflatten(0, (-1, num_inner)).mean(0).t() for name, values in metrics.items()
            }
            # Environments of a group share an online learner, so that only the means of groups are independent.
            metrics = {
                name: values.unflatten(0, (-1, num_inner * group_size)).mean(1) for name, values in metrics.items()
            }
        else:
            metrics, lengths = {name: values[:episodes] for name, values in metrics.items()}, lengths[:episodes]
        return {
            "checkpoint": str(self.checkpoint),
            "env": self.config.env,
            "env_config": dict(self.config.env_config),
            "episodes": len(lengths),
            "steps": float(lengths.mean()),
            "players": {
                agent: {
                    "player": self.names[agent],
                    **{name: mean_with_interval(values[:, index]) for name, values in metrics.items()},
                    **(
                        {INNER_EPISODES: {name: values[index].tolist() for name, values in by_inner_episode.items()}}
                        if by_inner_episode
                        else {}
                    ),
                }
                for index, agent in enumerate(runner.game.agents)
            },
        }

    def trace(self, episodes: int) -> pd.DataFrame:
        """Plays the same episodes as :meth:`evaluate`; see :meth:`Evaluator.trace`.

        Influence, balances and reciprocal rewards are included if the checkpoint contains an influence estimator.
        """
        runner = self._runner(episodes, with_estimator=True)
        inner = runner.config.inner_episodes()
        samples = [
            sample.split_episodes(inner) for sample in runner.sample(num_episodes=episodes, explore=self.explore)
        ]
        games = runner.num_envs * inner
        frames = [self._rows(runner, sample, index * games) for index, sample in enumerate(samples)]
        frame = pd.concat(frames, ignore_index=True)
        # Rollouts are whole, so there may be more episodes than requested.
        return frame[frame["episode"] < episodes].reset_index(drop=True)

    def _rows(self, runner: BatchedEnvRunner, batch: RolloutBatch, first_episode: int) -> pd.DataFrame:
        game, joint = runner.game, batch.columns
        action_names = np.array(game.action_names)
        has_influence = "influence" in joint
        return step_rows(
            game.agents,
            {agent: action_names[batch.actions[..., i].flatten().numpy()] for i, agent in enumerate(game.agents)},
            batch.rewards,
            influence=joint["influence"] if has_influence else None,
            balance=joint["balance"] if has_influence else None,
            reciprocal=self._reciprocal(game, joint) if has_influence else {},
            incentives=joint.get(INCENTIVES),
            episode_mask=batch.in_first_episode(),
            first_episode=first_episode,
        )

    def _reciprocal(self, game: BatchedGame, joint: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Computes reciprocal rewards ``[B, T]`` of all reciprocating agents, with the reward rule of each player."""
        rewards = {}
        for index, agent in enumerate(game.agents):
            if agent in self._reciprocators:
                settings = self.config.intrinsic_of(self._reciprocators[agent], RECIPROCITY, game)
                assert isinstance(settings, ReciprocitySettings)
                rewards[agent] = reciprocal_reward(joint["balance"], joint["given"], settings.rule)[..., index]
        return rewards

    def videos(self, episodes: int = 1) -> list[Video]:
        """Plays episodes in parallel environments, one per environment; see :meth:`Evaluator.videos`."""
        runner = self._runner(episodes)
        game = runner.game
        initial = _InitialImages(game)
        runner.trackers.append(initial)
        videos = [Video([f"{agent} ({self.names[agent]})" for agent in game.agents]) for _ in range(episodes)]
        unfinished_videos, inner = dict(enumerate(videos)), runner.config.inner_episodes()
        for _ in range(game.horizon * inner):
            sample = runner.play(1, self.explore)
            for env_index, video in list(unfinished_videos.items()):
                video.images += [] if video.images else [initial.images[env_index]]
                # An environment is reset in the step after its end, so that this image shows the final state.
                video.images.append(game.render_rgb(env_index))
                video.actions.append([game.action_names[k] for k in sample.actions[env_index, 0].tolist()])
                video.rewards.append(sample.rewards[env_index, 0].tolist())
                if INCENTIVES in sample.columns:
                    video.incentives.append(sample.columns[INCENTIVES][env_index, 0].tolist())
                # Videos of meta-episodes show all inner episodes.
                if inner == 1 and bool(sample.ended[env_index, 0]):
                    del unfinished_videos[env_index]
            if not unfinished_videos:
                break
        return videos

    def policy(self) -> pd.DataFrame | None:
        """Returns P(cooperate | last joint action); see :meth:`Evaluator.policy`.

        Strategies of the Axelrod library, online learners and pools are left out.
        """
        runner = self._runner(1)
        if runner.game.payoffs is None or runner.game.num_agents != 2:
            return None
        pool_members = zip(runner.game.agents, runner.config.pool_members(), strict=True)
        modules = {agent: runner.module[members[0][0]] for agent, members in pool_members if len(members) == 1}
        return cooperation_by_last_actions(
            {
                agent: module
                for agent, module in modules.items()
                if not isinstance(module.unwrapped(), AxelrodModule | LearningModule)
            }
        )

    def policy_in_context(self, episodes: int = 2000) -> pd.DataFrame | None:
        """Returns cooperation rates by last joint action and inner episode; see :meth:`Evaluator.policy_in_context`."""
        runner = self._runner(episodes)
        inner = runner.config.inner_episodes()
        if inner == 1 or runner.game.payoffs is None or runner.game.num_agents != 2:
            return None
        samples = runner.sample(num_episodes=episodes, explore=self.explore)
        actions = torch.cat([sample.actions.unflatten(1, (inner, -1)) for sample in samples])
        return cooperation_in_context(actions, runner.game.agents)


def episode_metrics(game: BatchedGame, batch: RolloutBatch) -> dict[str, Tensor]:
    """Computes the metrics of the first episode in every environment.

    Environments that end early are reset within the rollout. Steps after the first end belong to another episode and
    are masked.

    Args:
        game: The batched game.
        batch: Rollout that begins with a reset and is as long as the longest possible episode.

    Returns:
        Metrics ``[B, N]`` by name: the return, the sums of incentives ``received`` and ``given`` if there are any, and
        the outcomes of the game.
    """
    mask = batch.in_first_episode()[..., None]
    payments = {}
    if INCENTIVES in batch.columns:
        incentives = batch.columns[INCENTIVES]
        payments = {"received": (incentives.sum(-2) * mask).sum(1), "given": (incentives.sum(-1) * mask).sum(1)}
    totals = {name: (values * mask).sum(1) for name, values in batch.outcomes.items()}
    return {RETURN: (batch.rewards * mask).sum(1), **payments, **game.summarize(totals, mask.sum(1))}


def _frozen(checkpoint: Path, players: Any, modules: list[tuple[str, float]], is_pool: bool) -> Any:
    """Returns the player of an agent with its policies frozen, as in a ``players`` mapping.

    Policies that were frozen in training are loaded from this checkpoint too. It contains a copy of them, and the
    checkpoint that they came from may no longer exist.
    """
    probabilities = {
        f"{CHECKPOINT}/{checkpoint}#{module_id}" if player.kind in (LEARNER, CHECKPOINT) else player.written: share
        for (player, share), (module_id, _) in zip(players, modules, strict=True)
    }
    return {POOL: probabilities} if is_pool else next(iter(probabilities))


class _InitialImages(StepTracker):
    """Step tracker that stores an image of the initial state of the first episode in every environment."""

    def __init__(self, game: BatchedGame) -> None:
        self.images: list[np.ndarray] = []
        self._game = game

    def start(self, where: Tensor | None) -> None:
        """Renders the environments after their first reset."""
        if not self.images:
            self.images = [self._game.render_rgb(env_index) for env_index in range(self._game.num_games)]
