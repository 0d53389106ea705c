"""Evaluation of players in any environment, on RLlib's own env runners."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.utils.typing import AgentID, EpisodeType

import social_dilemmas
from rllib_reciprocator.engine import assign
from rllib_reciprocator.engine.player_mapping import keys_by_agent
from rllib_reciprocator.evaluation.checkpoints import load, load_weights
from rllib_reciprocator.evaluation.memory_one import cooperation_by_last_actions
from rllib_reciprocator.evaluation.trace import step_rows
from rllib_reciprocator.evaluation.video import Video
from rllib_reciprocator.evaluation.whole_episodes import WholeEpisodes
from rllib_reciprocator.intrinsic.reciprocity import balance, reciprocal_reward
from rllib_reciprocator.intrinsic.reciprocity.settings import RECIPROCATOR
from rllib_reciprocator.results.intervals import mean_with_interval
from rllib_reciprocator.rllib_episodes import environments
from rllib_reciprocator.rllib_episodes.algorithms import ConfigWithPlayers
from rllib_reciprocator.rllib_episodes.env_spec import env_spec
from rllib_reciprocator.rllib_episodes.influence import EpisodeReciprocity, influence_of
from rllib_reciprocator.rllib_episodes.module_checks import module_spaces
from rllib_reciprocator.rllib_episodes.modules import episode_player_kinds, module_spec
from rllib_reciprocator.rllib_episodes.outcomes_callback import summed_outcomes
from rllib_reciprocator.utils.checkpoints import MODULE_PATH
from rllib_reciprocator.utils.errors import UserError

MAX_ENVS = 16


class EpisodeEvaluator:
    """Evaluator of players in RLlib's episodes, for any multi-agent or single-agent environment."""

    def __init__(
        self, checkpoint: Path, config: AlgorithmConfig, players: dict[str, str], seed: int, explore: bool
    ) -> None:
        """Assigns the players to the agents; see :func:`open_evaluator`."""
        if isinstance(config.env, str) and environments.is_known(config.env):
            environments.register(config.env)
        self.config = config.copy(copy_frozen=False)
        self.config.env_runners(num_env_runners=0, create_env_on_local_worker=True).debugging(seed=seed)
        if isinstance(self.config, DQNConfig):
            # With explore=True, DQN would otherwise take uniformly random actions with its training epsilon.
            self.config.training(epsilon=0.0)
        self.checkpoint, self.seed, self.explore = checkpoint, seed, explore
        self.sources: dict[str, Path] = {}
        reciprocity: EpisodeReciprocity | None = getattr(self.config, "episode_reciprocity", None)
        self.reciprocators = [str(agent) for agent in reciprocity.reciprocators] if reciprocity else []
        # Configurations without `players` have no player names. Their agents are reported by the algorithm's name.
        self.names: dict[str, str] = dict(getattr(self.config, "player_names", {}))
        if players:
            self._add_guests(players)

    def _add_guests(self, players: dict[str, str]) -> None:
        """Replaces the players of some agents by players with separate modules."""
        if not self.config.is_multi_agent:
            raise UserError(f"--players: {self.config.env} has one agent")
        env_info = env_spec(self.config)
        agents = {str(agent): agent for agent in env_info.joint.agents}
        learner = self.config.algo_class.__name__.lower()
        try:
            players = {agent: players[key] for agent, key in keys_by_agent(players, list(agents)).items()}
            guests = assign(players, list(players), env_info.action_names, episode_player_kinds(learner), RECIPROCATOR)
            specs = {
                f"guest-{guest.agent}": module_spec(self.config, guest, env_info.joint, agents)
                for guest in guests
                if not guest.learns
            }
        except ValueError as error:
            raise UserError(f"--{error}") from None
        for guest in guests:
            if guest.learns:
                raise UserError(
                    f"--players {guest.agent}: policies are not trained here; give checkpoint/PATH or scripted/.."
                )
        self.names |= {guest.agent: guest.name for guest in guests}
        self.reciprocators = [agent for agent in self.reciprocators if agent not in players]
        self.sources = {key: Path(spec.load_state_path) for key, spec in specs.items() if spec.load_state_path}
        spec = self.config.get_multi_rl_module_spec(spaces=module_spaces(self.config, env_info))
        spec.add_modules(specs)
        modules = {agents[guest.agent]: f"guest-{guest.agent}" for guest in guests}
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
        """Samples complete episodes.

        Returns:
            The env runner, and the episodes in the order in which they started.
        """
        config = self.config.copy(copy_frozen=False)
        sampler = WholeEpisodes(config, count)
        runner = self._runner(min(count, MAX_ENVS), config)
        return runner, sampler.sample(runner, self.explore)

    def _runner(self, envs: int, config: AlgorithmConfig | None = None, **env_config: object) -> Any:
        config = (config or self.config.copy(copy_frozen=False)).env_runners(num_envs_per_env_runner=envs)
        config.environment(env_config={**config.env_config, **env_config})
        runner_class = config.env_runner_cls or (MultiAgentEnvRunner if config.is_multi_agent else SingleAgentEnvRunner)
        if not issubclass(runner_class, MultiAgentEnvRunner | SingleAgentEnvRunner):
            base_classes = "MultiAgentEnvRunner or SingleAgentEnvRunner"
            raise UserError(
                f"env_runner_cls: {runner_class.__name__} is not supported; use a subclass of {base_classes}"
            )
        try:
            runner = runner_class(config=config, worker_index=0)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{config.env}: the environment cannot be created ({error})") from None
        modules = self.checkpoint / MODULE_PATH
        if config.is_multi_agent:
            folders = {key: modules / key for key in runner.module.keys() if (modules / key).is_dir()}  # noqa: SIM118
            load_weights(runner.module, {**folders, **self.sources})
        else:
            load(runner.module, modules / "default_policy")
        # Seeds again, because the random numbers drawn while the runner was built depend on the players.
        torch.manual_seed(self.seed)
        np.random.seed(self.seed)
        for name in ("env_to_module_connector", "module_to_env_connector"):
            folder = self.checkpoint / "env_runner" / name
            if folder.is_dir():
                getattr(runner, f"_{name.removesuffix('_connector')}").restore_from_path(folder)
        return runner

    def __repr__(self) -> str:
        """Returns the class, the checkpoint and the seed."""
        return f"{type(self).__name__}({str(self.checkpoint)!r}, seed={self.seed})"

    def evaluate(self, episodes: int) -> dict[str, Any]:
        """Plays episodes; see :meth:`Evaluator.evaluate`."""
        runner, sampled_episodes = self._episodes(episodes)
        metrics: dict[str, dict[str, list[float]]] = {}
        for episode in sampled_episodes:
            for agent, agent_episode in _by_agent(episode).items():
                metrics.setdefault(agent, {}).setdefault("return", []).append(float(agent_episode.get_return()))
            for name, rates in self._outcomes(runner, episode).items():
                for agent, value in rates.items():
                    metrics[agent].setdefault(name, []).append(value)
        return {
            "checkpoint": str(self.checkpoint),
            "env": str(self.config.env),
            "env_config": dict(self.config.env_config),
            "episodes": len(sampled_episodes),
            "players": {
                agent: {
                    "player": self._name(agent),
                    **{name: mean_with_interval(values) for name, values in by_name.items()},
                }
                for agent, by_name in sorted(metrics.items())
            },
        }

    @staticmethod
    def _outcomes(runner: EnvRunner, episode: EpisodeType) -> dict[str, dict[str, float]]:
        """Returns the outcomes of an episode by name and agent; empty if the environment defines no outcomes."""
        if not isinstance(runner, MultiAgentEnvRunner):
            return {}
        game = runner.env.envs[0].unwrapped
        if getattr(game, "summarize", None) is None:
            return {}
        rates = game.summarize(summed_outcomes([episode], game.possible_agents), len(episode))
        return {name: dict(zip(game.possible_agents, v.tolist(), strict=True)) for name, v in rates.items()}

    def trace(self, episodes: int) -> pd.DataFrame:
        """Plays episodes; see :meth:`Evaluator.trace`.

        Influence, balances and reciprocal rewards are included if agents were trained with reciprocity.
        """
        if not self.config.is_multi_agent:
            raise UserError(f"--trace: {self.config.env} has one agent")
        runner, sampled_episodes = self._episodes(episodes)
        return pd.concat(
            [self._rows(runner, episode, number) for number, episode in enumerate(sampled_episodes)], ignore_index=True
        )

    def _rows(self, runner: EnvRunner, episode: EpisodeType, number: int) -> pd.DataFrame:
        settings: EpisodeReciprocity | None = getattr(self.config, "episode_reciprocity", None)
        agents = settings.joint.agents if settings else tuple(sorted(episode.agent_episodes, key=str))
        length = len(episode)
        actions: dict[Any, list[Any]] = {agent: [None] * length for agent in agents}
        rewards = torch.zeros(1, length, len(agents))
        for index, agent in enumerate(agents):
            for step in range(length):
                # Agents that do not act in every step, e.g. in turn-based games, have no action here.
                step_actions = episode.get_actions(step, env_steps=True, agent_ids=[agent])
                if agent in step_actions:
                    actions[agent][step] = _plain(step_actions[agent])
                    rewards[0, step, index] = float(episode.get_rewards(step, agent_ids=[agent]).get(agent, 0.0))
        if settings is None:
            return step_rows(agents, actions, rewards, first_episode=number)
        steps = [settings.joint_steps(episode)]
        # Time first, as the reward rules expect it; [T, 1, N, N] for the single episode.
        influence = influence_of(runner.module, settings, [episode], steps, explore=self.explore)[None].transpose(0, 1)
        no_resets = torch.zeros(influence.shape[:2], dtype=torch.bool)
        balances = balance(influence, settings.rule, settings.balance_decay, no_resets)
        reciprocal = reciprocal_reward(balances, influence, settings.rule).transpose(0, 1)
        return step_rows(
            agents,
            actions,
            rewards,
            influence=influence.transpose(0, 1),
            balance=balances.transpose(0, 1),
            reciprocal={
                agent: reciprocal[..., index] for index, agent in enumerate(agents) if str(agent) in self.reciprocators
            },
            first_episode=number,
        )

    def videos(self, episodes: int = 1) -> list[Video]:
        """Plays episodes one after the other; see :meth:`Evaluator.videos`."""
        if not self.config.is_multi_agent:
            raise UserError(f"--render: {self.config.env} has one agent; use RLlib's own tools to render it")
        runner = self._runner(1, render_mode="rgb_array")
        return [self._video(runner) for _ in range(episodes)]

    def _video(self, runner: MultiAgentEnvRunner) -> Video:
        """Plays one episode and renders every step."""
        env = runner.env.envs[0].unwrapped
        agents = [str(agent) for agent in env.possible_agents]
        video = Video([f"{agent} ({self._name(agent)})" for agent in agents])
        names = getattr(env, "action_names", ())
        # Samples no steps but resets the environment, to render its initial state.
        runner.sample(num_timesteps=0, explore=self.explore, force_reset=True)
        video.images.append(self._image(env))
        is_done = False
        while not is_done:
            (episode,) = runner.sample(num_timesteps=1, explore=self.explore)
            video.images.append(self._image(env))
            parts = _by_agent(episode)
            # Only agents that acted in this step have an action.
            step_actions = {agent: _plain(parts[agent].get_actions(-1)) for agent in parts if len(parts[agent])}
            video.actions.append(
                [str(names[step_actions[a]] if names else step_actions[a]) if a in step_actions else "" for a in agents]
            )
            video.rewards.append([float(parts[a].get_rewards(-1)) if a in step_actions else 0.0 for a in agents])
            is_done = episode.is_done
        return video

    def _image(self, env: MultiAgentEnv) -> np.ndarray:
        """Renders the current state of the environment.

        Returns:
            Image ``[H, W, 3]`` uint8.

        Raises:
            UserError: If the environment's ``render`` does not return an image.
        """
        image = env.render()
        if not isinstance(image, np.ndarray):
            raise UserError(f"--render: {self.config.env} renders no images (its render() returns {type(image)})")
        return image

    def policy(self) -> pd.DataFrame | None:
        """Returns P(cooperate | last joint action); see :meth:`Evaluator.policy`."""
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
        """Returns None, because there are no online learners on RLlib's own env runners."""


def _guest_or(
    guests: dict[Any, str],
    policy_mapping_fn: Callable[..., str],
    agent_id: AgentID,
    episode: EpisodeType | None = None,
    **kwargs: object,
) -> str:
    return guests.get(agent_id) or policy_mapping_fn(agent_id, episode, **kwargs)


def _by_agent(episode: EpisodeType) -> dict[str, Any]:
    return {str(agent): part for agent, part in getattr(episode, "agent_episodes", {"all": episode}).items()}


def _plain(action: object) -> Any:
    """Converts an action to a number if it is a scalar, and to text otherwise."""
    array = np.asarray(action)
    return array.item() if array.ndim == 0 else " ".join(f"{value:.4g}" for value in array.ravel())
