"""Evaluates players of any environment, on RLlib's own env runners."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

import social_dilemmas
from rllib_reciprocator.evaluation.checkpoints import load, load_weights
from rllib_reciprocator.evaluation.film import Film
from rllib_reciprocator.evaluation.memory_one import cooperation_by_last_actions
from rllib_reciprocator.evaluation.trace import step_rows
from rllib_reciprocator.evaluation.whole_episodes import WholeEpisodes
from rllib_reciprocator.experiments.errors import UserError
from rllib_reciprocator.experiments.intervals import mean_with_interval
from rllib_reciprocator.intrinsic.reciprocity import balance, reciprocal_reward
from rllib_reciprocator.players import assign, keys_by_agent
from rllib_reciprocator.rllib_episodes import environments
from rllib_reciprocator.rllib_episodes.algorithms import ConfigWithPlayers
from rllib_reciprocator.rllib_episodes.env_spec import env_spec
from rllib_reciprocator.rllib_episodes.influence import EpisodeReciprocity, influence_of
from rllib_reciprocator.rllib_episodes.modules import module_spec
from rllib_reciprocator.rllib_episodes.outcomes_callback import summed_outcomes
from rllib_reciprocator.rllib_episodes.reciprocate import module_spaces
from rllib_reciprocator.utils.checkpoints import MODULE_PATH

MAX_ENVS = 16


class EpisodeEvaluator:
    """Evaluates players of any multi-agent environment, or the agent of a single-agent one, in RLlib's episodes."""

    def __init__(
        self, checkpoint: Path, config: AlgorithmConfig, players: dict[str, str], seed: int, explore: bool
    ) -> None:
        """Puts them in their places; see :func:`open_evaluator`."""
        if isinstance(config.env, str) and environments.is_known(config.env):
            environments.register(config.env)
        self.config = config.copy(copy_frozen=False)
        self.config.env_runners(num_env_runners=0, create_env_on_local_worker=True).debugging(seed=seed)
        if isinstance(self.config, DQNConfig):
            # Without exploration, as other policies are evaluated.
            self.config.training(epsilon=0.0)
        self.checkpoint, self.seed, self.explore = checkpoint, seed, explore
        self.sources: dict[str, Path] = {}
        known: EpisodeReciprocity | None = getattr(self.config, "episode_reciprocity", None)
        self.reciprocators = [str(agent) for agent in known.reciprocators] if known else []
        # Without players it is the algorithm itself that plays.
        self.names: dict[str, str] = dict(getattr(self.config, "player_names", {}))
        if players:
            self._add_guests(players)

    def _add_guests(self, players: dict[str, str]) -> None:
        """Puts others in the places of players, as modules of their own."""
        if not self.config.is_multi_agent:
            raise UserError(f"--players: {self.config.env} has one agent")
        known = env_spec(self.config)
        agents = {str(agent): agent for agent in known.joint.agents}
        learner = self.config.algo_class.__name__.lower()
        try:
            players = {agent: players[key] for agent, key in keys_by_agent(players, list(agents)).items()}
            guests = assign(players, list(players), known.action_names, (learner,))
            specs = {
                f"guest-{each.agent}": module_spec(self.config, each, known.joint, agents)
                for each in guests
                if not each.learns
            }
        except ValueError as error:
            raise UserError(f"--{error}") from None
        for each in guests:
            if each.learns:
                raise UserError(f"--players {each.agent}: nobody learns here; give checkpoint/PATH or scripted/..")
        self.names |= {each.agent: each.name for each in guests}
        self.reciprocators = [agent for agent in self.reciprocators if agent not in players]
        self.sources = {key: Path(spec.load_state_path) for key, spec in specs.items() if spec.load_state_path}
        spec = self.config.get_multi_rl_module_spec(spaces=module_spaces(self.config, known))
        spec.add_modules(specs)
        modules = {agents[each.agent]: f"guest-{each.agent}" for each in guests}
        if isinstance(self.config, ConfigWithPlayers):
            self.config.keep_composition()
        self.config.multi_agent(
            policies=[*self.config.policies, *specs],
            policy_mapping_fn=partial(_guest_or, modules, self.config.policy_mapping_fn),
        )
        self.config.rl_module(rl_module_spec=spec)

    def _name(self, agent: str) -> str:
        return self.names.get(agent, self.config.algo_class.__name__)

    def _episodes(self, count: int) -> tuple[Any, list[Any]]:
        """Samples episodes, in the order in which they start.

        Returns:
            The env runner and the episodes.
        """
        config = self.config.copy(copy_frozen=False)
        whole = WholeEpisodes(config, count)
        runner = self._runner(min(count, MAX_ENVS), config)
        return runner, whole.sample(runner, self.explore)

    def _runner(self, envs: int, config: AlgorithmConfig | None = None, **env_config: Any) -> Any:
        config = (config or self.config.copy(copy_frozen=False)).env_runners(num_envs_per_env_runner=envs)
        config.environment(env_config={**config.env_config, **env_config})
        kind = config.env_runner_cls or (MultiAgentEnvRunner if config.is_multi_agent else SingleAgentEnvRunner)
        if not issubclass(kind, MultiAgentEnvRunner | SingleAgentEnvRunner):
            known = "MultiAgentEnvRunner or SingleAgentEnvRunner"
            raise UserError(f"env_runner_cls: {kind.__name__} cannot be evaluated; use a subclass of {known}")
        try:
            runner = kind(config=config, worker_index=0)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{config.env}: cannot be made ({error})") from None
        modules = self.checkpoint / MODULE_PATH
        if config.is_multi_agent:
            own = {key: modules / key for key in runner.module.keys() if (modules / key).is_dir()}  # noqa: SIM118
            load_weights(runner.module, {**own, **self.sources})
        else:
            load(runner.module, modules / "default_policy")
        # Not from what was drawn while it was built, which depends on who plays.
        torch.manual_seed(self.seed)
        np.random.seed(self.seed)
        for name in ("env_to_module_connector", "module_to_env_connector"):
            folder = self.checkpoint / "env_runner" / name
            if folder.is_dir():
                getattr(runner, f"_{name.removesuffix('_connector')}").restore_from_path(folder)
        return runner

    def evaluate(self, episodes: int) -> dict[str, Any]:
        """Plays episodes; see :meth:`Evaluator.evaluate`."""
        runner, played = self._episodes(episodes)
        figures: dict[str, dict[str, list[float]]] = {}
        for episode in played:
            for agent, own in _by_agent(episode).items():
                figures.setdefault(agent, {}).setdefault("return", []).append(float(own.get_return()))
            for name, rates in self._outcomes(runner, episode).items():
                for agent, value in rates.items():
                    figures[agent].setdefault(name, []).append(value)
        return {
            "checkpoint": str(self.checkpoint),
            "env": str(self.config.env),
            "env_config": dict(self.config.env_config),
            "episodes": len(played),
            "players": {
                agent: {
                    "player": self._name(agent),
                    **{name: mean_with_interval(values) for name, values in by_name.items()},
                }
                for agent, by_name in sorted(figures.items())
            },
        }

    @staticmethod
    def _outcomes(runner: Any, episode: Any) -> dict[str, dict[str, float]]:
        """Rates of an episode of one of our games, by name and agent; none for other environments."""
        if not isinstance(runner, MultiAgentEnvRunner):
            return {}
        game = runner.env.envs[0].unwrapped
        if getattr(game, "summarize", None) is None:
            return {}
        rates = game.summarize(summed_outcomes([episode], game.possible_agents), len(episode))
        return {name: dict(zip(game.possible_agents, v.tolist(), strict=True)) for name, v in rates.items()}

    def trace(self, episodes: int) -> pd.DataFrame:
        """Plays episodes; see :meth:`Evaluator.trace`. Influence is told if agents were trained to reciprocate."""
        if not self.config.is_multi_agent:
            raise UserError(f"--trace: {self.config.env} has one agent")
        runner, played = self._episodes(episodes)
        return pd.concat([self._rows(runner, each, number) for number, each in enumerate(played)], ignore_index=True)

    def _rows(self, runner: Any, episode: Any, number: int) -> pd.DataFrame:
        known: EpisodeReciprocity | None = getattr(self.config, "episode_reciprocity", None)
        agents = known.joint.agents if known else tuple(sorted(episode.agent_episodes, key=str))
        length = len(episode)
        actions: dict[Any, list[Any]] = {agent: [None] * length for agent in agents}
        rewards = torch.zeros(1, length, len(agents))
        for index, agent in enumerate(agents):
            for step in range(length):
                taken = episode.get_actions(step, env_steps=True, agent_ids=[agent])
                if agent in taken:
                    actions[agent][step] = _plain(taken[agent])
                    rewards[0, step, index] = float(episode.get_rewards(step, agent_ids=[agent]).get(agent, 0.0))
        if known is None:
            return step_rows(agents, actions, rewards, first_episode=number)
        steps = [known.joint_steps(episode)]
        influence = influence_of(runner.module, known, [episode], steps, explore=self.explore)[None].transpose(0, 1)
        never = torch.zeros(influence.shape[:2], dtype=torch.bool)
        before = balance(influence, known.rule, known.balance_decay, never)
        reciprocal = reciprocal_reward(before, influence, known.rule).transpose(0, 1)
        return step_rows(
            agents,
            actions,
            rewards,
            influence=influence.transpose(0, 1),
            balance=before.transpose(0, 1),
            reciprocal={
                agent: reciprocal[..., index] for index, agent in enumerate(agents) if str(agent) in self.reciprocators
            },
            first_episode=number,
        )

    def films(self, episodes: int = 1) -> list[Film]:
        """Plays episodes, one after the other; see :meth:`Evaluator.films`."""
        if not self.config.is_multi_agent:
            raise UserError(f"--render: {self.config.env} has one agent; RLlib's own tools draw it")
        runner = self._runner(1, render_mode="rgb_array")
        return [self._film(runner) for _ in range(episodes)]

    def _film(self, runner: MultiAgentEnvRunner) -> Film:
        """Plays one episode."""
        env = runner.env.envs[0].unwrapped
        agents = [str(agent) for agent in env.possible_agents]
        film = Film([f"{agent} ({self._name(agent)})" for agent in agents])
        names = getattr(env, "action_names", ())
        # Resets the environment, to draw it before the first step.
        runner.sample(num_timesteps=0, explore=self.explore, force_reset=True)
        film.pictures.append(self._picture(env))
        over = False
        while not over:
            (chunk,) = runner.sample(num_timesteps=1, explore=self.explore)
            film.pictures.append(self._picture(env))
            own = _by_agent(chunk)
            taken = {agent: _plain(own[agent].get_actions(-1)) for agent in own if len(own[agent])}
            film.actions.append([str(names[taken[a]] if names else taken[a]) if a in taken else "" for a in agents])
            film.rewards.append([float(own[a].get_rewards(-1)) if a in taken else 0.0 for a in agents])
            over = chunk.is_done
        return film

    def _picture(self, env: Any) -> np.ndarray:
        """Returns the environment's image of its present state, ``[H, W, 3]`` uint8.

        Raises:
            UserError: If it draws none.
        """
        picture = env.render()
        if not isinstance(picture, np.ndarray):
            raise UserError(f"--render: {self.config.env} draws no pictures (its render() gives {type(picture)})")
        return picture

    def policy(self) -> pd.DataFrame | None:
        """P(cooperate | last joint action); see :meth:`Evaluator.policy`."""
        if not (isinstance(self.config.env, str) and social_dilemmas.is_game(self.config.env)):
            return None
        game = social_dilemmas.make(self.config.env, **self.config.env_config)
        if game.payoffs is None or game.num_agents != 2:
            return None
        runner = self._runner(1)
        episode = MultiAgentEpisode()
        return cooperation_by_last_actions(
            {agent: runner.module[runner.config.policy_mapping_fn(agent, episode)] for agent in game.agents}
        )

    def policy_in_context(self, episodes: int = 2000) -> None:
        """None: on RLlib's own env runners nobody learns between inner episodes."""


def _guest_or(guests: dict[Any, str], others: Any, agent_id: Any, episode: Any = None, **kwargs: Any) -> str:
    return guests.get(agent_id) or others(agent_id, episode, **kwargs)


def _by_agent(episode: Any) -> dict[str, Any]:
    return {str(agent): own for agent, own in getattr(episode, "agent_episodes", {"all": episode}).items()}


def _plain(action: Any) -> Any:
    """An action as a number, or as text."""
    array = np.asarray(action)
    return array.item() if array.ndim == 0 else " ".join(f"{value:.4g}" for value in array.ravel())
