"""Configuration of rollouts: their length, meta-episodes, groups of environments, and batch sizes."""

from __future__ import annotations

import math
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.utils.annotations import override
from typing_extensions import Self

import social_dilemmas
from rllib_reciprocator.engine.meta_episodes import MetaSettings
from rllib_reciprocator.engine.registries import meta_settings_class

if TYPE_CHECKING:
    from rllib_reciprocator.engine.player_mapping import Player
    from social_dilemmas.batched_game import BatchedGame


class RolloutConfig(PPOConfig):
    """Configuration of the rollouts of parallel environments.

    Attributes:
        rollouts_are_meta_episodes: If True, a rollout is a whole meta-episode also if no player's memory spans one.
    """

    rollouts_are_meta_episodes: ClassVar[bool] = False
    assigned_players: tuple[Player, ...]

    def __init__(self, algo_class: type | None = None) -> None:
        """Sets the defaults."""
        super().__init__(algo_class=algo_class)
        self.meta_settings: MetaSettings = meta_settings_class()()
        self.bootstrap_at_horizon = False
        self.local_runner_device = "auto"
        self.stagger_episodes = True
        # Number of inner episodes if a frozen policy keeps its recurrent state for a meta-episode, else None.
        self._frozen_inner_episodes: int | None = None
        self.num_env_runners = 0
        self.num_envs_per_env_runner = 2048
        self.train_batch_size = None
        self.minibatch_size = None
        self.shuffle_batch_per_epoch = False

    def meta(self, **settings: Any) -> Self:
        """Sets the size of meta-episodes and what they are used for. Unset settings keep their values.

        Args:
            **settings: Settings of the class in :data:`rllib_reciprocator.registry.META_SETTINGS`.

        Returns:
            This configuration.

        Raises:
            pydantic.ValidationError: If a value has the wrong type or is out of range.
        """
        current = self.meta_settings.model_dump(exclude_unset=True)
        self.meta_settings = meta_settings_class().model_validate({**current, **settings})
        return self

    @override(AlgorithmConfig)
    def env_runners(
        self,
        *args: Any,
        local_runner_device: str = NotProvided,
        stagger_episodes: bool = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Sets the sampling settings; see also :meth:`AlgorithmConfig.env_runners`.

        Args:
            *args: RLlib's own settings.
            local_runner_device: Device of the environments of the local env runner, ``cpu`` or ``cuda``; ``auto`` for
                the device of the local learner. With a GPU learner and no remote env runners, rollouts then stay on the
                GPU.
            stagger_episodes: If True and rollout fragments are shorter than episodes, environments start at different
                steps of an episode, so that a batch has steps of all parts of an episode. The initial policies play up
                to these steps once, at the start of the run; the steps are neither trained on nor counted.
            **kwargs: RLlib's own settings.

        Returns:
            This configuration.
        """
        super().env_runners(*args, **kwargs)
        if local_runner_device is not NotProvided:
            self.local_runner_device = local_runner_device
        if stagger_episodes is not NotProvided:
            self.stagger_episodes = stagger_episodes
        return self

    def make_game(self, num_games: int = 1) -> BatchedGame:
        """Builds parallel environments on the CPU.

        Args:
            num_games: Number of environments.

        Raises:
            ValueError: If ``env`` is not registered, or a setting in ``env_config`` is invalid.
        """
        if not isinstance(self.env, str):
            run = self.algo_class.__name__ if isinstance(self.algo_class, type) else "this algorithm"
            raise ValueError(
                f"env: {run} needs the id of a registered environment: {', '.join(social_dilemmas.game_ids())}"
            )
        return social_dilemmas.make(self.env, num_games, **dict(self.env_config))

    def horizon(self) -> int:
        """Returns the number of steps of an episode that does not end early."""
        return self.make_game().horizon

    # --- meta-episodes ----------------------------------------------------------------------------------------------

    def spans_meta_episodes(self, player: Player) -> bool:
        """Returns True if the memory and the values of a trained player span meta-episodes."""
        raise NotImplementedError

    @property
    def samples_meta_episodes(self) -> bool:
        """Returns True if a rollout is a whole meta-episode of every environment."""
        return self.rollouts_are_meta_episodes or any(
            member.learns and self.spans_meta_episodes(member)
            for player in getattr(self, "assigned_players", ())
            for member, _ in player.pool_members
        )

    def plays_meta_episodes(self) -> bool:
        """Returns True if episodes are inner episodes of meta-episodes.

        This is the case with online learners, and with policies that keep their recurrent state for a meta-episode.
        """
        return self._has_groups() or self._frozen_inner_episodes is not None

    def inner_episodes(self) -> int:
        """Returns M, the number of inner episodes in a meta-episode; 1 without meta-episodes."""
        if not self.plays_meta_episodes():
            return 1
        return self._frozen_inner_episodes or self.meta_settings.inner_episodes

    def group_size(self) -> int:
        """Returns the number of environments in a group; 1 if environments are independent."""
        return self.meta_settings.copies if self._has_groups() else 1

    def _has_groups(self) -> bool:
        """Returns True if environments form groups, which share an online learner or its gradient estimate."""
        return self.samples_meta_episodes or any(
            member.player_source is not None and member.player_source.is_online_learner
            for player in self.assigned_players
            for member, _ in player.pool_members
        )

    def draws_distinct_members(self) -> bool:
        """Returns True if a pool member may play at most one agent of an environment."""
        return self.meta_settings.population > 1

    # --- length of rollouts -----------------------------------------------------------------------------------------

    def rollout_steps(self) -> int:
        """Returns T, the number of steps of each environment in a rollout.

        It is ``rollout_fragment_length`` if that is set, else the horizon, or a whole meta-episode if policies keep
        their recurrent state for one. RLlib sets ``rollout_fragment_length`` to 1 in the evaluation configuration; it
        is ignored there, since evaluation plays complete episodes.
        """
        if self.rollout_fragment_length == "auto" or self.in_evaluation:
            return self.whole_steps(self.make_game())
        return self.rollout_fragment_length

    def whole_steps(self, game: BatchedGame) -> int:
        """Returns the number of steps of a full episode, or of a meta-episode if rollouts are meta-episodes."""
        return game.horizon * (self.inner_episodes() if self.samples_meta_episodes else 1)

    def completes_episodes(self) -> bool:
        """Returns True if a rollout counts the first complete episode of every environment and no steps after it."""
        return self.batch_mode == "complete_episodes"

    def plays_whole_episodes(self, game: BatchedGame) -> bool:
        """Returns True if rollouts start with a reset and cover complete episodes.

        Args:
            game: One environment of the game.
        """
        whole = not game.terminates_early and self.rollout_steps() == self.whole_steps(game)
        return self.completes_episodes() or whole

    def phases(self, game: BatchedGame) -> int:
        """Returns the number of phases of staggered environments: fragments per episode, or 1 without staggering.

        Args:
            game: One environment of the game.
        """
        steps = self.rollout_steps()
        if not self.stagger_episodes or self.in_evaluation or self.completes_episodes() or steps >= game.horizon:
            return 1
        return math.ceil(game.horizon / steps)

    def keeps_final_observations(self, game: BatchedGame) -> bool:
        """Returns True if rollouts keep the last inputs of episodes that are truncated inside the rollout."""
        return self.bootstrap_at_horizon and not self.plays_whole_episodes(game)

    @override(AlgorithmConfig)
    def get_rollout_fragment_length(self, worker_index: int = 0) -> int:
        """Returns the number of steps of each environment in a rollout, see :meth:`rollout_steps`."""
        return self.rollout_steps()

    # --- batch sizes and devices ------------------------------------------------------------------------------------

    @property
    def num_environments(self) -> int:
        """Number of environments of all env runners."""
        return max(1, self.num_env_runners) * self.num_envs_per_env_runner

    @property
    def train_batch_size_per_learner(self) -> int:
        """Number of environment steps per learner and iteration: one rollout of every env runner, split evenly."""
        return self.num_environments * self.rollout_steps() // max(1, self.num_learners)

    @train_batch_size_per_learner.setter
    def train_batch_size_per_learner(self, value: int | None) -> None:
        self._train_batch_size_per_learner = value

    def sample_bytes(self) -> int:
        """Estimates the size in bytes of the rollouts of one iteration, over all env runners."""
        game = self.make_game()
        agents, spaces = game.num_agents, (game.observation_space, game.state_space)
        obs, state = (prod(space.shape or (1,)) * space.dtype.itemsize for space in spaces)
        per_step = agents * (obs + 4 * int(game.action_space.n) + 16) + 12 * agents**2 + state + 16
        return self.num_environments * self.rollout_steps() * per_step

    def sampling_device(self, worker_index: int) -> str | None:
        """Returns the device of an env runner's environments; None for RLlib's default.

        Args:
            worker_index: Index of the env runner; 0 for the local one.
        """
        if worker_index or self.in_evaluation:
            return None
        if self.local_runner_device != "auto":
            return self.local_runner_device
        local_gpu = self.num_env_runners == 0 and self.num_learners == 0 and self.num_gpus_per_learner > 0
        return f"cuda:{self.local_gpu_idx}" if local_gpu else None
