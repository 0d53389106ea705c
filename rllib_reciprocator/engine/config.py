"""Configuration of algorithms on the batched engine: players, batch sizes, and the settings derived from them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ValidationError
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.utils.annotations import override

import social_dilemmas
from rllib_reciprocator.engine.env_runner import BatchedEnvRunner
from rllib_reciprocator.engine.learner import BatchedLearner
from rllib_reciprocator.engine.losses import ACTOR_CRITIC, ENTROPY, POLICY_GRADIENT, PPO_LOSS
from rllib_reciprocator.engine.meta_episodes import MetaSettings
from rllib_reciprocator.engine.module_specs import ModuleSpecs, build_module_specs
from rllib_reciprocator.intrinsic.registry import intrinsic_names, intrinsic_reward
from rllib_reciprocator.models import ActorCriticModule
from rllib_reciprocator.players import (
    CHECKPOINT,
    KNOWN_LEARNERS,
    LEARNING,
    RECIPROCATOR,
    RECIPROCITY,
    LearningSettings,
    LearningTracker,
    Player,
    assign,
    described_learner,
)
from rllib_reciprocator.players.frozen import remembered_inner_episodes
from rllib_reciprocator.utils.ray_internals import drop_warnings
from rllib_reciprocator.utils.settings import IntrinsicSettings
from social_dilemmas.batched_game import MAX_GAMES
from social_dilemmas.registry import did_you_mean

if TYPE_CHECKING:
    from rllib_reciprocator.engine.tracker import StepTracker
    from social_dilemmas.batched_game import BatchedGame

BATCH_MODES = ("truncate_episodes", "complete_episodes")
_LEARNER_NAME = re.compile(r"[\w.-]+")


def _module_of(agent_id: str, episode: Any = None, **kwargs: Any) -> str:
    """Returns the agent id as module id.

    RLlib's configuration needs a mapping function; the engine maps agents to modules by ``config.pool_members()``.
    """
    return agent_id


class BatchedConfig(PPOConfig):
    """Configuration of PPO and policy-gradient players, and their co-players, in a batched environment.

    The RLModule specs and the list of trained policies are derived from the players, and the batch sizes from the
    numbers of environments, steps and env runners. Both are derived when the configuration is validated.

    Attributes:
        algorithms: Names of the trainable players, mapped to their losses (:mod:`rllib_reciprocator.engine.losses`).
        default_player: Player that is used if ``players`` is not set, or if an entry names a team or a module only.
    """

    algorithms: ClassVar[Mapping[str, str]] = {
        PPO_LOSS: PPO_LOSS,
        POLICY_GRADIENT: POLICY_GRADIENT,
        ACTOR_CRITIC: ACTOR_CRITIC,
    }
    default_player: ClassVar[str] = "ppo"
    meta_settings_class: ClassVar[type[MetaSettings]] = MetaSettings
    # Names of intrinsic rewards with parameters that the learner of this algorithm trains.
    trained_intrinsic_rewards: ClassVar[tuple[str, ...]] = ()
    # Names of the players whose recurrent state is kept for a meta-episode. If there are any, a rollout is a whole
    # meta-episode.
    remembering: ClassVar[tuple[str, ...]] = ()

    def __init__(self, algo_class: type | None = None) -> None:
        """Sets the defaults."""
        drop_warnings()
        super().__init__(algo_class=algo_class)
        self.player_mapping: dict[str, Any] = {"player_*": self.default_player}
        self.intrinsic_settings: dict[str, IntrinsicSettings] = {}
        self.meta_settings = self.meta_settings_class()
        self.own_learning_settings: dict[str, LearningSettings] = {}
        self.normalize_advantages = True
        self.normalize_returns = False
        self.bootstrap_at_horizon = False
        self.epsilon: float | list[list[float]] = 0.0
        self.entropy_form = ENTROPY
        self.use_baseline = True
        self.critic_lr = 3e-3
        self.critic_epochs = 1
        self.local_runner_device = "auto"
        self.stagger_episodes = True
        # Number of inner episodes if a frozen policy keeps its recurrent state for a meta-episode, else None.
        self._frozen_inner_episodes: int | None = None
        self._derived_overrides: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        # States without this attribute come from versions with other defaults, see :meth:`from_state`.
        self._defaults_version = 1

        self.algorithm_config_overrides_per_module: dict[str, Any] = {}
        self.env_runner_cls = BatchedEnvRunner
        self.num_env_runners = 0
        self.num_envs_per_env_runner = 2048
        self.train_batch_size = None
        self.minibatch_size = None
        self.shuffle_batch_per_epoch = False
        self.num_epochs = 10
        self.lr = 5e-3
        self.gamma = 0.96
        self.lambda_ = 1.0
        self.clip_param = 0.1
        self.entropy_coeff = 0.02
        self.use_kl_loss = False
        self.vf_loss_coeff = 0.5
        self.vf_clip_param = float("inf")

    @classmethod
    @override(AlgorithmConfig)
    def from_state(cls, state: dict[str, Any]) -> BatchedConfig:
        """Restores a configuration from its state, with the defaults of the version that saved it.

        Versions without ``_defaults_version`` used ``uniform_share=0`` for reciprocity. It is restored here if the
        state has no settings of reciprocity; settings in the state keep their own values.
        """
        config = super().from_state(state)
        if "_defaults_version" not in state and RECIPROCITY not in config.intrinsic_settings:
            config.intrinsic(RECIPROCITY, uniform_share=0.0)
        return config

    def __repr__(self) -> str:
        """Returns the class, the environment with its settings, the players and the number of environments."""
        return (
            f"{type(self).__name__}(env={self.env!r}, env_config={dict(self.env_config)!r},"
            f" players={self.player_mapping!r}, num_envs_per_env_runner={self.num_envs_per_env_runner})"
        )

    def players(self, players: Mapping[str, Any]) -> BatchedConfig:
        """Sets the player of each agent.

        Args:
            players: Mapping from agents, or patterns of agents, to players: ``reciprocator``, ``ppo``, ``pg``, ``ac``,
                ``team/NAME``, ``scripted/STRATEGY``, or ``checkpoint/PATH`` for a frozen policy of an earlier run; a
                mapping with ``player`` and settings of that player, e.g. ``{player: ppo, lr: 0.001}``; or a pool
                (:func:`rllib_reciprocator.players.assign`).

        Returns:
            This configuration.
        """
        self.player_mapping = dict(players)
        return self

    def intrinsic(self, name: str, **settings: Any) -> BatchedConfig:
        """Sets an intrinsic reward for all players that have it. Unset settings keep their values.

        Args:
            name: Name of the intrinsic reward (:mod:`rllib_reciprocator.intrinsic.registry`).
            **settings: Settings of the intrinsic reward.

        Returns:
            This configuration.

        Raises:
            pydantic.ValidationError: If a value has the wrong type or is out of range.
        """
        current = self._settings_of_all(name).model_dump(exclude_unset=True)
        validated = intrinsic_reward(name).settings_class().model_validate({**current, **settings})
        self.intrinsic_settings = {**self.intrinsic_settings, name: validated}
        return self

    def meta(self, **settings: Any) -> BatchedConfig:
        """Sets the size of meta-episodes. Unset settings keep their values.

        Args:
            **settings: Settings of :class:`MetaSettings`.

        Returns:
            This configuration.

        Raises:
            pydantic.ValidationError: If a value has the wrong type or is out of range.
        """
        current = self.meta_settings.model_dump(exclude_unset=True)
        self.meta_settings = self.meta_settings_class.model_validate({**current, **settings})
        return self

    def learning_player(self, name: str, **settings: Any) -> BatchedConfig:
        """Configures an online learner, the player ``learner/NAME``.

        Args:
            name: ``pg`` or ``a2c``, whose unset settings keep their values; or a new name, whose unset settings are
                those of its ``algorithm``.
            **settings: Settings of :class:`LearningSettings`.

        Returns:
            This configuration.

        Raises:
            ValueError: If the name is empty or contains characters other than letters, digits and ``_.-``.
            pydantic.ValidationError: If a value has the wrong type or is out of range.
        """
        if not _LEARNER_NAME.fullmatch(name):
            raise ValueError(
                f"learning_players: {name!r} cannot be written as learner/NAME; use letters, digits and _.- in a name"
            )
        validated = described_learner(name, self.own_learning_settings, settings)
        self.own_learning_settings = {**self.own_learning_settings, name: validated}
        return self

    def learning_settings(self) -> dict[str, LearningSettings]:
        """Returns the settings of all online learners, by name."""
        return {**KNOWN_LEARNERS, **self.own_learning_settings}

    @override(PPOConfig)
    def training(
        self,
        *,
        normalize_advantages: bool = NotProvided,
        normalize_returns: bool = NotProvided,
        bootstrap_at_horizon: bool = NotProvided,
        epsilon: float | list[list[int | float]] = NotProvided,
        entropy_form: Literal["entropy", "uniform_kl"] = NotProvided,
        use_baseline: bool = NotProvided,
        critic_lr: float = NotProvided,
        critic_epochs: int = NotProvided,
        **kwargs: Any,
    ) -> BatchedConfig:
        """Sets the training settings of players; see also :meth:`PPOConfig.training`.

        Args:
            normalize_advantages: If True, advantages are standardized over the batch of each player.
            normalize_returns: If True, returns are standardized over the batch before the value is subtracted, as in
                the paper's code. Needs complete episodes, ``lambda_=1`` and ``bootstrap_at_horizon=False``.
            bootstrap_at_horizon: If True, the value of the last observation replaces the rewards after the horizon, as
                in RLlib. If False, rewards after the horizon are zero, as in the paper's code.
            epsilon: Probability of taking a uniformly random action during training, or a schedule of it,
                ``[[step, probability], ..]``. Log-probabilities are those of the resulting mixture
                (:func:`with_exploration`).
            entropy_form: Regularizer that ``entropy_coeff`` weights in the losses of ``pg`` and ``ac``: the entropy; or
                ``uniform_kl``, the mean log-probability of all actions without exploration, whose gradient does not
                vanish for policies that are almost deterministic.
            use_baseline: If True, ``pg`` subtracts from each return the mean over all episodes at the same step. Needs
                more than one episode per rollout.
            critic_lr: Learning rate of the critics of ``ac``, which are trained by Adam; ``lr`` is that of its
                policies, which are trained by SGD.
            critic_epochs: Number of gradient steps of these critics per iteration, each on the whole rollout.
            **kwargs: RLlib's own settings.

        Returns:
            This configuration.
        """
        super().training(**kwargs)
        for name, value in (
            ("normalize_advantages", normalize_advantages),
            ("normalize_returns", normalize_returns),
            ("bootstrap_at_horizon", bootstrap_at_horizon),
            ("epsilon", epsilon),
            ("entropy_form", entropy_form),
            ("use_baseline", use_baseline),
            ("critic_lr", critic_lr),
            ("critic_epochs", critic_epochs),
        ):
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    @override(AlgorithmConfig)
    def env_runners(
        self,
        *args: Any,
        local_runner_device: str = NotProvided,
        stagger_episodes: bool = NotProvided,
        **kwargs: Any,
    ) -> BatchedConfig:
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

    @override(PPOConfig)
    def get_default_learner_class(self) -> type:
        """Returns the learner class of the batched engine."""
        return BatchedLearner

    @override(AlgorithmConfig)
    def update_from_dict(self, config_dict: dict[str, Any]) -> BatchedConfig:
        """Updates the configuration from a dict, as read from YAML files.

        Args:
            config_dict: RLlib's settings, and ``players``, ``meta``, ``learning_players``, ``model_config`` and
                intrinsic rewards by name.
        """
        rest = dict(config_dict)
        if "players" in rest:
            self.players(rest.pop("players"))
        for name in intrinsic_names():
            if name in rest:
                self.intrinsic(name, **rest.pop(name))
        if "meta" in rest:
            self.meta(**rest.pop("meta"))
        for name, settings in rest.pop("learning_players", {}).items():
            self.learning_player(name, **settings)
        if "model_config" in rest:
            self.rl_module(model_config=rest.pop("model_config"))
        return super().update_from_dict(rest)

    @override(AlgorithmConfig)
    def validate(self) -> None:
        """Validates the configuration and derives module specs, policies and overrides from it.

        Raises:
            ValueError: If a setting is invalid; the message names the setting and a fix.
        """
        self._check_sampling_settings()
        game = self.make_game()
        self.assigned_players = assign(
            self.written_players(),
            game.agents,
            game.action_names,
            tuple(self.algorithms),
            self.default_player,
            tuple(self.learning_settings()),
        )
        self._frozen_inner_episodes = self._inner_episodes_of_frozen_players()
        self._check_sizes(game)
        specs = build_module_specs(self, game)
        self.complete_specs(specs, game)
        self._check_learning(game, specs)
        # Lists instead of sets: the order of a set depends on the hash seed, and the initial weights on the order.
        self.policies = list(specs.of_players)
        self.policy_mapping_fn = _module_of
        self.policies_to_train = list(specs.learning)
        self._alternatives = specs.pool_members
        self._brought = specs.frozen_dependencies
        self._brought_by = specs.frozen_by_member
        self._rl_module_spec = MultiRLModuleSpec(rl_module_specs={**specs.of_players, **specs.shared})
        self._derive_overrides(specs)
        if self.in_evaluation:
            # The evaluation configuration keeps the batch sizes of the training run, but has separate env runners. The
            # validation of PPO would reject it, as it compares the two.
            AlgorithmConfig.validate(self)
        else:
            super().validate()

    def written_players(self) -> Mapping[str, Any]:
        """Returns the ``players`` mapping; algorithms may override this to expand short forms."""
        return self.player_mapping

    def draws_distinct_members(self) -> bool:
        """Returns True if a pool member may play at most one agent of an environment."""
        return False

    def complete_specs(self, specs: ModuleSpecs, game: BatchedGame) -> None:
        """Completes module specs that depend on all players; a hook for algorithms.

        Args:
            specs: Specs of all modules, changed in place.
            game: One environment of the game.
        """

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

    def pool_members(self) -> list[list[tuple[str, float]]]:
        """Returns the module ids and probabilities of the pool members of each agent."""
        return self._alternatives

    def intrinsic_by_player(self) -> dict[str, dict[tuple[int, int], IntrinsicSettings]]:
        """Returns the settings of intrinsic rewards, by name and by index of the agent and of its pool member."""
        game = self.make_game()
        by_name: dict[str, dict[tuple[int, int], IntrinsicSettings]] = {}
        for index, player in enumerate(self.assigned_players):
            for member_index, (member, _) in enumerate(player.pool_members):
                for name in member.intrinsic:
                    by_name.setdefault(name, {})[index, member_index] = self.intrinsic_of(member, name, game)
        return by_name

    def intrinsic_of(self, player: Player, name: str, game: BatchedGame) -> IntrinsicSettings:
        """Returns a player's settings of an intrinsic reward.

        Args:
            player: The player, whose settings override those shared by all players.
            name: Name of the intrinsic reward.
            game: Environment from which the remaining settings are derived.

        Raises:
            ValueError: If the player overrides a setting that must be shared, or a value is invalid.
        """
        settings = self._settings_of_all(name)
        overrides = player.intrinsic.get(name, {})
        for key in overrides:
            if key in settings.common:
                raise ValueError(
                    f"players.{player.agent}.intrinsic.{name}.{key}: is shared by all players; set config.{name}.{key}"
                )
        if overrides:
            try:
                settings = type(settings).model_validate({**settings.model_dump(exclude_unset=True), **overrides})
            except ValidationError as error:
                first_error = error.errors()[0]
                path = ".".join(map(str, first_error["loc"]))
                raise ValueError(f"players.{player.agent}.intrinsic.{name}.{path}: {first_error['msg']}") from None
        return self._for_game(settings, game)

    def intrinsic_of_all(self, name: str, game: BatchedGame) -> IntrinsicSettings:
        """Returns the settings of an intrinsic reward that are shared by all players, completed for the game."""
        return self._for_game(self._settings_of_all(name), game)

    def intrinsic_of_module(self, module_id: str) -> dict[str, tuple[IntrinsicSettings, str, int]]:
        """Returns the intrinsic rewards that a policy of this run depends on, for runs that load it as a frozen policy.

        Args:
            module_id: Id of the policy's module.

        Returns:
            By name of the intrinsic reward: its settings, the suffix of the ids of its modules, and the index of the
            agent that the policy plays (the first one of a team).
        """
        game = self.make_game()
        for index, player in enumerate(self.assigned_players):
            for (candidate, _), (candidate_id, _) in zip(player.pool_members, self._alternatives[index], strict=True):
                if candidate_id == module_id:
                    rewards = {
                        name: (self.intrinsic_of(candidate, name, game), "", index) for name in candidate.intrinsic
                    }
                    return rewards if candidate.learns else self._brought.get(index, {})
        return {}

    def trackers(self, game: BatchedGame, modules: Mapping[str, Any]) -> list[StepTracker]:
        """Builds the trackers of online learners and intrinsic rewards.

        An intrinsic reward is tracked if a player or a frozen policy has it, or if its settings always ask for it.

        Args:
            game: The parallel environments.
            modules: All RLModules, by id.
        """
        trackers: list[StepTracker] = [
            LearningTracker(game, modules[module_id].unwrapped(), index)
            for index, player in enumerate(self.assigned_players)
            for (member, _), (module_id, _) in zip(player.pool_members, self._alternatives[index], strict=True)
            if member.kind == LEARNING
        ]
        by_player = self.intrinsic_by_player()
        names = list(dict.fromkeys([*by_player, *(name for rewards in self._brought.values() for name in rewards)]))
        names += [name for name, setting in self.intrinsic_settings.items() if setting.always and name not in names]
        for name in names:
            make = intrinsic_reward(name).part("tracker")
            if make is None:
                continue
            settings: list[IntrinsicSettings | None] = [None] * game.num_agents
            suffixes, slots = [""] * game.num_agents, list(range(game.num_agents))
            member_indices = [0] * game.num_agents
            for (agent, member_index), player_settings in by_player.get(name, {}).items():
                settings[agent], member_indices[agent] = player_settings, member_index
            # Frozen policies use the settings and modules of their own runs.
            for agent, dependencies in self._brought.items():
                if name in dependencies:
                    settings[agent], suffixes[agent], slots[agent] = dependencies[name]
                    member_indices[agent] = self._brought_by[agent][name]
            tracker_args = {
                "default": self.intrinsic_of_all(name, game),
                "modules": modules,
                "suffixes": suffixes,
                "slots": slots,
                "numbers": member_indices,
                "trained": [
                    [self._is_given_to(member) for member, _ in player.pool_members] for player in self.assigned_players
                ],
            }
            trackers.append(make(game, settings, **tracker_args))
        return trackers

    def _is_given_to(self, member: Player) -> bool:
        """Returns True if a pool member receives incentives: trained players, and in evaluation frozen policies."""
        return member.learns or (self.in_evaluation and member.kind == CHECKPOINT)

    def warmup_iterations(self) -> int:
        """Returns the number of initial iterations that train estimators only, but no policies."""
        specs = self._rl_module_spec.rl_module_specs
        shared = [spec.model_config or {} for module_id, spec in specs.items() if module_id not in self.policies]
        return max((settings.get("warmup_iterations", 0) for settings in shared), default=0)

    def horizon(self) -> int:
        """Returns the number of steps of an episode that does not end early."""
        return self.make_game().horizon

    @property
    def samples_meta_episodes(self) -> bool:
        """Returns True if a rollout is a whole meta-episode of every environment."""
        return bool(self.remembering)

    def plays_meta_episodes(self) -> bool:
        """Returns True if episodes are inner episodes of meta-episodes.

        This is the case with online learners, and with policies that keep their recurrent state for a meta-episode.
        """
        return self._groups_copies() or self._frozen_inner_episodes is not None

    def inner_episodes(self) -> int:
        """Returns M, the number of inner episodes in a meta-episode; 1 without meta-episodes."""
        if not self.plays_meta_episodes():
            return 1
        return self._frozen_inner_episodes or self.meta_settings.inner_episodes

    def group_size(self) -> int:
        """Returns the number of environments in a group; 1 if environments are independent."""
        return self.meta_settings.copies if self._groups_copies() else 1

    def _groups_copies(self) -> bool:
        """Returns True if environments form groups, which share an online learner or its gradient estimate."""
        return self.samples_meta_episodes or any(
            member.kind == LEARNING for player in self.assigned_players for member, _ in player.pool_members
        )

    def _inner_episodes_of_frozen_players(self) -> int | None:
        """Returns the number of inner episodes for frozen policies whose recurrent state is kept for a meta-episode.

        Returns:
            The number set in ``meta``, else that of the runs of these policies; None if there are no such policies.

        Raises:
            ValueError: If their runs had different numbers and ``meta`` does not set one, or a checkpoint cannot be
                read.
        """
        remembering: dict[int, str] = {}
        for player in self.assigned_players:
            for member, _ in player.pool_members:
                if member.kind != CHECKPOINT:
                    continue
                try:
                    inner_episodes = remembered_inner_episodes(Path(member.source))
                except ValueError as error:
                    raise ValueError(f"players.{player.agent}: {error}") from None
                if inner_episodes is not None:
                    remembering.setdefault(inner_episodes, player.agent)
        if self.samples_meta_episodes or "inner_episodes" in self.meta_settings.model_fields_set:
            return self.meta_settings.inner_episodes if remembering else None
        if len(remembering) > 1:
            (first, first_agent), (second, second_agent), *_ = remembering.items()
            raise ValueError(
                f"meta.inner_episodes: missing; set it, as the frozen policies of {first_agent} and {second_agent} were"
                f" trained with {first} and {second}"
            )
        return next(iter(remembering), None)

    def rollout_steps(self) -> int:
        """Returns T, the number of steps of each environment in a rollout.

        It is ``rollout_fragment_length`` if that is set, else the horizon, or a whole meta-episode if policies keep
        their recurrent state for one. RLlib sets ``rollout_fragment_length`` to 1 in the evaluation configuration; it
        is ignored there, since evaluation plays complete episodes.
        """
        if self.rollout_fragment_length == "auto" or self.in_evaluation:
            return self._whole_steps(self.make_game())
        return self.rollout_fragment_length

    def completes_episodes(self) -> bool:
        """Returns True if a rollout counts the first complete episode of every environment and no steps after it."""
        return self.batch_mode == "complete_episodes"

    def plays_whole_episodes(self, game: BatchedGame) -> bool:
        """Returns True if rollouts start with a reset and cover complete episodes.

        Args:
            game: One environment of the game.
        """
        whole = not game.terminates_early and self.rollout_steps() == self._whole_steps(game)
        return self.completes_episodes() or whole

    def _whole_steps(self, game: BatchedGame) -> int:
        """Returns the number of steps of a full episode, or of a meta-episode if rollouts are meta-episodes."""
        return game.horizon * (self.inner_episodes() if self.samples_meta_episodes else 1)

    def loss_of(self, player: Player) -> str:
        """Returns the name of the loss of a trainable player."""
        return self.algorithms[player.algorithm]

    def module_class(self, player: Player) -> type[ActorCriticModule]:
        """Returns the module class of a trainable player without a custom module or RLlib's default networks."""
        return ActorCriticModule

    def phases(self, game: BatchedGame) -> int:
        """Returns the number of phases of staggered environments: fragments per episode, or 1 without staggering.

        Args:
            game: One environment of the game.
        """
        steps = self.rollout_steps()
        if not self.stagger_episodes or self.in_evaluation or self.completes_episodes() or steps >= game.horizon:
            return 1
        return math.ceil(game.horizon / steps)

    def identifies_environments(self, game: BatchedGame) -> bool:
        """Returns True if rollouts have a column with the index of each row's environment."""
        return False

    def keeps_final_observations(self, game: BatchedGame) -> bool:
        """Returns True if rollouts keep the last inputs of episodes that are truncated inside the rollout."""
        return self.bootstrap_at_horizon and not self.plays_whole_episodes(game)

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

    @override(AlgorithmConfig)
    def get_rollout_fragment_length(self, worker_index: int = 0) -> int:
        """Returns the number of steps of each environment in a rollout, see :meth:`rollout_steps`."""
        return self.rollout_steps()

    @property
    def train_batch_size_per_learner(self) -> int:
        """Number of environment steps per learner and iteration: one rollout of every env runner, split evenly."""
        runners, learners = max(1, self.num_env_runners), max(1, self.num_learners)
        return runners * self.num_envs_per_env_runner * self.rollout_steps() // learners

    @train_batch_size_per_learner.setter
    def train_batch_size_per_learner(self, value: int | None) -> None:
        self._train_batch_size_per_learner = value

    def sample_bytes(self) -> int:
        """Estimates the size in bytes of the rollouts of one iteration, over all env runners."""
        game = self.make_game()
        agents, spaces = game.num_agents, (game.observation_space, game.state_space)
        obs, state = (prod(space.shape or (1,)) * space.dtype.itemsize for space in spaces)
        per_step = agents * (obs + 4 * int(game.action_space.n) + 16) + 12 * agents**2 + state + 16
        steps = max(1, self.num_env_runners) * self.num_envs_per_env_runner * self.rollout_steps()
        return steps * per_step

    def _settings_of_all(self, name: str) -> IntrinsicSettings:
        return self.intrinsic_settings.get(name) or intrinsic_reward(name).settings_class()()

    def _for_game(self, settings: IntrinsicSettings, game: BatchedGame) -> IntrinsicSettings:
        has_payoffs = game.payoffs is not None
        return settings.for_game(
            has_payoffs=has_payoffs,
            num_agents=game.num_agents,
            gamma=self.gamma,
            lowest_reward=float(game.reward_range[0]),
        )

    def _derive_overrides(self, specs: ModuleSpecs) -> None:
        """Merges the players' settings into the user's overrides per module.

        A configuration can be validated several times: overrides that were derived before are replaced, and are not
        mistaken for the user's.
        """
        base, derived = self._derived_overrides
        if self.algorithm_config_overrides_per_module != derived:
            base = self.algorithm_config_overrides_per_module
        derived = {
            module_id: {**base.get(module_id, {}), **specs.overrides.get(module_id, {})}
            for module_id in {**base, **specs.overrides}
        }
        self._derived_overrides = (base, derived)
        self.algorithm_config_overrides_per_module = derived
        self._per_module_overrides: dict[str, Any] = {}

    def _check_learning(self, game: BatchedGame, specs: ModuleSpecs) -> None:
        if not self.in_evaluation and not specs.learning:
            names = " or ".join(dict.fromkeys([RECIPROCATOR, *self.algorithms]))
            raise ValueError(f"players: no player is trained; at least one must be {names}")
        whole = self.plays_whole_episodes(game)
        if self.completes_episodes() and self.rollout_steps() != self._whole_steps(game):
            raise ValueError("rollout_fragment_length: must be auto with batch_mode complete_episodes")
        for player in self.assigned_players:
            for member, _ in player.pool_members:
                if member.intrinsic and game.num_agents == 1:
                    name = next(iter(member.intrinsic))
                    raise ValueError(f"players.{player.agent}: {name} needs other agents, and {self.env} has one agent")
                clips = member.settings.get("grad_clip", self.grad_clip) is not None
                if member.learns and self.loss_of(member) != PPO_LOSS and clips and self.grad_clip_by != "global_norm":
                    raise ValueError("grad_clip_by: must be global_norm for players trained by policy gradients")
                for name in member.intrinsic if member.learns else ():
                    learned_by = intrinsic_reward(name).learned_by
                    if learned_by and name not in self.trained_intrinsic_rewards:
                        raise ValueError(
                            f"players.{player.agent}: {name} can be trained by run: {' or '.join(learned_by)} only"
                        )
                if member.learns and self.loss_of(member) == POLICY_GRADIENT and not whole:
                    raise ValueError(
                        f"players.{player.agent}: {member.algorithm} needs complete episodes; set batch_mode to"
                        " complete_episodes"
                    )
        if specs.with_memory:
            self._check_memory()
        fixed_length = whole and not game.terminates_early
        if self.normalize_returns and (self.lambda_ != 1.0 or self.bootstrap_at_horizon or not fixed_length):
            raise ValueError(
                "normalize_returns: needs lambda 1, bootstrap_at_horizon false, rollout_fragment_length auto, and an"
                " environment with episodes of fixed length"
            )
        for spec in specs.shared.values():
            if (spec.model_config or {}).get("future_weight") and not whole and not spec.load_state_path:
                raise ValueError(
                    "reciprocity.future_weight: needs complete episodes of fixed length (rollout_fragment_length auto)"
                )

    def _check_sampling_settings(self) -> None:
        """Raises ValueError if a setting of the env runners is invalid, or not available on this machine."""
        if self.batch_mode not in BATCH_MODES:
            raise ValueError(
                f"batch_mode: {self.batch_mode!r} is not {' or '.join(BATCH_MODES)}"
                f"{did_you_mean(str(self.batch_mode), BATCH_MODES)}"
            )
        environments = self.num_envs_per_env_runner
        if isinstance(environments, int) and environments > MAX_GAMES:
            raise ValueError(
                f"num_envs_per_env_runner: {environments} is more than the {MAX_GAMES} environments that one env"
                " runner can step together; use more num_env_runners"
            )
        self._check_device()

    def _check_device(self) -> None:
        """Raises ValueError if ``local_runner_device`` is not a valid device, or is not available."""
        import torch

        device_name = self.local_runner_device
        # Evaluation samples on RLlib's default device, see sampling_device.
        if device_name == "auto" or self.in_evaluation:
            return
        try:
            device = torch.device(device_name)
        except RuntimeError:
            device = None
        if device is None or device.type not in ("cpu", "cuda"):
            raise ValueError(f"local_runner_device: {device_name!r} is not auto, cpu or cuda")
        # If a GPU is requested for the algorithm, it may run on another machine, whose devices are not known here.
        has_gpu = self.num_gpus > 0 or (not self.num_learners and self.num_gpus_per_learner > 0)
        devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.type == "cuda" and not has_gpu and (device.index or 0) >= devices:
            available = f"has {devices} CUDA device{'s' * (devices != 1)}" if devices else "has no CUDA device"
            raise ValueError(f"local_runner_device: {device_name!r}: this machine {available}; use auto or cpu")

    def _check_sizes(self, game: BatchedGame) -> None:
        environments, steps = self.num_envs_per_env_runner, self.rollout_steps()
        runners, learners = max(1, self.num_env_runners), max(1, self.num_learners)
        if not isinstance(environments, int) or environments < 1:
            raise ValueError(f"num_envs_per_env_runner: {environments} is not a positive number of environments")
        if self.plays_meta_episodes():
            self._check_meta_episodes(game)
        if steps < 1:
            raise ValueError(f"rollout_fragment_length: {steps} is not a positive number of steps")
        if self.in_evaluation:
            # Evaluation has separate env runners, and its rollouts are not trained on.
            return
        if runners * environments % learners:
            raise ValueError(
                f"num_learners: {runners} env runners x {environments} environments cannot be split evenly among"
                f" {learners} learners"
            )
        rows = self.train_batch_size_per_learner
        batch_size = self._train_batch_size_per_learner
        if batch_size is None and self.train_batch_size is not None:
            batch_size = self.train_batch_size // learners
        if batch_size not in (None, rows):
            raise ValueError(
                f"train_batch_size_per_learner: {batch_size} does not match; {runners} env runners x {environments}"
                f" environments x {steps} steps over {learners} learners are {rows} (leave it out, or change"
                " num_envs_per_env_runner)"
            )
        if self.minibatch_size is not None and not 1 <= self.minibatch_size <= rows:
            raise ValueError(f"minibatch_size: {self.minibatch_size} is not between 1 and the {rows} rows of a learner")

    def _check_meta_episodes(self, game: BatchedGame) -> None:
        environments, group_size = self.num_envs_per_env_runner, self.group_size()
        runners, learners = max(1, self.num_env_runners), max(1, self.num_learners)
        if game.terminates_early:
            raise ValueError(f"env: inner episodes must have a fixed length, and those of {self.env} may end early")
        if environments % group_size:
            raise ValueError(
                f"num_envs_per_env_runner: {environments} is not a multiple of the group size {group_size}"
                " (meta.copies)"
            )
        if runners * environments // group_size % learners and not self.in_evaluation:
            raise ValueError(
                f"num_learners: {runners * environments // group_size} groups of environments cannot be split evenly"
                f" among {learners} learners"
            )
        if self.rollout_steps() != self._whole_steps(game):
            raise ValueError("rollout_fragment_length: must be auto with meta-episodes")
        if self.samples_meta_episodes and self.completes_episodes() and not self.in_evaluation:
            raise ValueError("batch_mode: a rollout is a whole meta-episode already; leave it out")

    def _check_memory(self) -> None:
        """Raises ValueError if a setting does not support recurrent modules, which are trained on whole sequences."""
        if self.bootstrap_at_horizon:
            raise ValueError(
                "bootstrap_at_horizon: not supported with recurrent modules, as rollouts do not keep their states at"
                " the horizon; set it to false"
            )
        if self.minibatch_size is not None and self.minibatch_size < self.rollout_steps():
            raise ValueError(
                f"minibatch_size: {self.minibatch_size} is less than a sequence of {self.rollout_steps()} steps,"
                " the minimum for recurrent modules"
            )
