"""The configuration of algorithms that play batched games: players, sizes, and what follows from them."""

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
    """Games are not played in RLlib's episodes; what maps agents to modules is ``config.pool_members()``."""
    return agent_id


class BatchedConfig(PPOConfig):
    """Players who learn by PPO, and whoever plays with them, in one of the batched games.

    From the players follow the RLModule specs and which policies learn; from games, steps and runners follow the batch
    sizes. Both are derived when the configuration is validated.

    Attributes:
        algorithms: Names of the players who learn without an intrinsic reward, and by which loss each does
            (:mod:`rllib_reciprocator.engine.losses`).
        default_player: Who plays where the players are not given, or a team or a module alone is named.
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
    # Names of the players whose memory lives as long as a meta-episode; if there are any, a sample is a whole one.
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
        # Inner episodes of a meta-episode if a frozen player remembers them.
        self._frozen_inner_episodes: int | None = None
        self._derived_overrides: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        # States of configurations that lack it are of versions whose defaults were others: :meth:`from_state`.
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
        """Returns the configuration of a state, as of a checkpoint, with the defaults of the version that saved it.

        Settings of reciprocity that were saved restore themselves; where none were, ``uniform_share`` was 0.
        """
        config = super().from_state(state)
        if "_defaults_version" not in state and RECIPROCITY not in config.intrinsic_settings:
            config.intrinsic(RECIPROCITY, uniform_share=0.0)
        return config

    def players(self, players: Mapping[str, Any]) -> BatchedConfig:
        """Says who plays.

        Args:
            players: Player by agent or pattern of agents: ``reciprocator``, ``ppo``, ``pg``, ``ac``, ``team/NAME``,
                ``scripted/STRATEGY``, or ``checkpoint/PATH`` for a frozen player of an earlier run; a mapping with
                ``player`` and settings of its own, as ``{player: ppo, lr: 0.001}``; or a pool
                (:func:`rllib_reciprocator.players.assign`).

        Returns:
            This configuration.
        """
        self.player_mapping = dict(players)
        return self

    def intrinsic(self, name: str, **settings: Any) -> BatchedConfig:
        """Sets an intrinsic reward for all players that have it. Unset settings keep their values.

        Args:
            name: Of the intrinsic reward (:mod:`rllib_reciprocator.intrinsic.registry`).
            **settings: Its settings.

        Returns:
            This configuration.

        Raises:
            pydantic.ValidationError: If a value has the wrong type or is out of range.
        """
        current = self._settings_of_all(name).model_dump(exclude_unset=True)
        made = intrinsic_reward(name).settings_class().model_validate({**current, **settings})
        self.intrinsic_settings = {**self.intrinsic_settings, name: made}
        return self

    def meta(self, **settings: Any) -> BatchedConfig:
        """Sets what meta-episodes are made up of. Unset settings keep their values.

        Args:
            **settings: Those of :class:`MetaSettings`.

        Returns:
            This configuration.

        Raises:
            pydantic.ValidationError: If a value has the wrong type or is out of range.
        """
        current = self.meta_settings.model_dump(exclude_unset=True)
        self.meta_settings = self.meta_settings_class.model_validate({**current, **settings})
        return self

    def learning_player(self, name: str, **settings: Any) -> BatchedConfig:
        """Describes a player ``learner/NAME``, who learns inside the environment.

        Args:
            name: ``pg`` or ``a2c``, of which what is not set stays as it is; or another, which then has the settings of
                its ``algorithm``.
            **settings: Those of :class:`LearningSettings`.

        Returns:
            This configuration.

        Raises:
            ValueError: If the name is empty or has other characters than letters, digits and ``_.-``.
            pydantic.ValidationError: If a value has the wrong type or is out of range.
        """
        if not _LEARNER_NAME.fullmatch(name):
            raise ValueError(
                f"learning_players: {name!r} cannot be written as learner/NAME; use letters, digits and _.- in a name"
            )
        made = described_learner(name, self.own_learning_settings, settings)
        self.own_learning_settings = {**self.own_learning_settings, name: made}
        return self

    def learning_settings(self) -> dict[str, LearningSettings]:
        """How each player ``learner/NAME`` learns, by name."""
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
        """Sets how players learn; see also :meth:`PPOConfig.training`.

        Args:
            normalize_advantages: Whether advantages are standardised over the batch of each player.
            normalize_returns: Whether returns are standardised over the batch before the value is taken off, as in
                the paper's code. Needs whole episodes, ``lambda_=1`` and ``bootstrap_at_horizon=False``.
            bootstrap_at_horizon: Whether the value of the last observation stands for rewards after the horizon, as
                in RLlib. The paper's code counts nothing after it.
            epsilon: In how many cases players do anything at all while they learn, a share or a schedule of it,
                ``[[step, share], ..]``; log-probabilities have it in them (:func:`with_exploration`).
            entropy_form: What ``entropy_coeff`` is the weight of in the losses of ``pg`` and ``ac``: the entropy, or
                ``uniform_kl``, the mean log-probability of all actions without exploration, whose pull does not fade
                where a policy is sure of itself.
            use_baseline: Whether ``pg`` learns from returns less their mean over all episodes at the same step, which
                needs more than one episode a sample.
            critic_lr: Learning rate of the critics of ``ac``, by Adam; ``lr`` is that of its policies, by SGD.
            critic_epochs: Gradient steps of these critics in an iteration, each on all that was sampled.
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
        """Sets how games are played; see also :meth:`AlgorithmConfig.env_runners`.

        Args:
            *args: RLlib's own settings.
            local_runner_device: Where the games of the local runner are, as ``cpu`` or ``cuda``; ``auto`` for where the
                local learner is. With a GPU learner and no remote runner, samples then never leave the GPU.
            stagger_episodes: If True, environments start at different steps of an episode where rollout fragments are
                shorter than episodes, so that a batch has steps of all parts of an episode. The initial policies play
                up to these steps once, at the start of the run; the steps are neither trained on nor counted.
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
        """The engine's learner."""
        from rllib_reciprocator.engine.learner import BatchedLearner

        return BatchedLearner

    @override(AlgorithmConfig)
    def update_from_dict(self, config_dict: dict[str, Any]) -> BatchedConfig:
        """Takes settings from a dict: as in YAML files ``players``, ``model_config``, and intrinsic rewards by name."""
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
        """Derives what follows from players, games and runners, and checks everything.

        Raises:
            ValueError: With the setting at fault and how to mend it.
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
        # Lists: sets would order the modules, and with them the draws of their first weights, by hash seed.
        self.policies = list(specs.of_players)
        self.policy_mapping_fn = _module_of
        self.policies_to_train = list(specs.learning)
        self._alternatives = specs.pool_members
        self._brought = specs.brought
        self._brought_by = specs.brought_by
        self._rl_module_spec = MultiRLModuleSpec(rl_module_specs={**specs.of_players, **specs.shared})
        self._derive_overrides(specs)
        if self.in_evaluation:
            # The evaluation copy of a validated configuration has the sizes of the whole run, but its own env runners:
            # PPO would compare the two.
            AlgorithmConfig.validate(self)
        else:
            super().validate()

    def written_players(self) -> Mapping[str, Any]:
        """The ``players`` mapping; an algorithm may write short forms out."""
        return self.player_mapping

    def draws_distinct_members(self) -> bool:
        """Whether no member of pools plays two agents of a game."""
        return False

    def complete_specs(self, specs: ModuleSpecs, game: BatchedGame) -> None:
        """Changes the specs of modules where they follow from who plays; an algorithm's own.

        Args:
            specs: Of all modules.
            game: One copy of the game.
        """

    def make_game(self, num_games: int = 1) -> BatchedGame:
        """Copies of the game.

        Raises:
            ValueError: If there is none of that name, or a setting of it is not valid.
        """
        if not isinstance(self.env, str):
            run = self.algo_class.__name__ if isinstance(self.algo_class, type) else "this algorithm"
            raise ValueError(f"env: {run} plays registered games, by id: {', '.join(social_dilemmas.game_ids())}")
        return social_dilemmas.make(self.env, num_games, **dict(self.env_config))

    def pool_members(self) -> list[list[tuple[str, float]]]:
        """For each agent the ids of the modules that may play it, with their shares of the games."""
        return self._alternatives

    def intrinsic_by_player(self) -> dict[str, dict[tuple[int, int], IntrinsicSettings]]:
        """Who is moved by what: by name of an intrinsic reward settings, by agent and number of its alternative."""
        game = self.make_game()
        found: dict[str, dict[tuple[int, int], IntrinsicSettings]] = {}
        for index, player in enumerate(self.assigned_players):
            for number, (each, _) in enumerate(player.pool_members):
                for name in each.intrinsic:
                    found.setdefault(name, {})[index, number] = self.intrinsic_of(each, name, game)
        return found

    def intrinsic_of(self, player: Player, name: str, game: BatchedGame) -> IntrinsicSettings:
        """A player's settings of an intrinsic reward: those of all, with its own, and what follows from the game."""
        of_all = self._settings_of_all(name)
        own = player.intrinsic.get(name, {})
        for key in own:
            if key in of_all.common:
                raise ValueError(
                    f"players.{player.agent}.intrinsic.{name}.{key}: is one for all; set config.{name}.{key}"
                )
        if own:
            try:
                of_all = type(of_all).model_validate({**of_all.model_dump(exclude_unset=True), **own})
            except ValidationError as error:
                wrong = error.errors()[0]
                path = ".".join(map(str, wrong["loc"]))
                raise ValueError(f"players.{player.agent}.intrinsic.{name}.{path}: {wrong['msg']}") from None
        return self._for_game(of_all, game)

    def intrinsic_of_all(self, name: str, game: BatchedGame) -> IntrinsicSettings:
        """The settings of an intrinsic reward for who has none of its own, with what follows from the game."""
        return self._for_game(self._settings_of_all(name), game)

    def intrinsic_of_module(self, module_id: str) -> dict[str, tuple[IntrinsicSettings, str, int]]:
        """What a player of this run goes by, for whoever lets it play elsewhere.

        Args:
            module_id: Of its module.

        Returns:
            By name of the intrinsic reward its settings, what the ids of its modules end in, and which agent it is
            (the first of a team).
        """
        game = self.make_game()
        for index, player in enumerate(self.assigned_players):
            for (each, _), (own_id, _) in zip(player.pool_members, self._alternatives[index], strict=True):
                if own_id == module_id:
                    own = {name: (self.intrinsic_of(each, name, game), "", index) for name in each.intrinsic}
                    return own if each.learns else self._brought.get(index, {})
        return {}

    def trackers(self, game: BatchedGame, modules: Mapping[str, Any]) -> list[StepTracker]:
        """What follows the steps of the games: of each intrinsic reward that somebody has, or that is always followed.

        Args:
            game: The games.
            modules: All RLModules, by id.
        """
        trackers: list[StepTracker] = [
            LearningTracker(game, modules[module_id].unwrapped(), index)
            for index, player in enumerate(self.assigned_players)
            for (each, _), (module_id, _) in zip(player.pool_members, self._alternatives[index], strict=True)
            if each.kind == LEARNING
        ]
        by_player = self.intrinsic_by_player()
        names = list(dict.fromkeys([*by_player, *(name for each in self._brought.values() for name in each)]))
        names += [name for name, each in self.intrinsic_settings.items() if each.always and name not in names]
        for name in names:
            make = intrinsic_reward(name).part("tracker")
            if make is None:
                continue
            settings: list[IntrinsicSettings | None] = [None] * game.num_agents
            suffixes, slots = [""] * game.num_agents, list(range(game.num_agents))
            numbers = [0] * game.num_agents
            for (agent, number), own in by_player.get(name, {}).items():
                settings[agent], numbers[agent] = own, number
            for agent, of_agent in self._brought.items():
                if name in of_agent:
                    settings[agent], suffixes[agent], slots[agent] = of_agent[name]
                    numbers[agent] = self._brought_by[agent][name]
            others = {
                "default": self.intrinsic_of_all(name, game),
                "modules": modules,
                "suffixes": suffixes,
                "slots": slots,
                "numbers": numbers,
                "trained": [
                    [self._is_given_to(member) for member, _ in player.pool_members] for player in self.assigned_players
                ],
            }
            trackers.append(make(game, settings, **others))
        return trackers

    def _is_given_to(self, member: Player) -> bool:
        """Returns whether a pool member receives incentives: if it is trained; in an evaluation if it was."""
        return member.learns or (self.in_evaluation and member.kind == CHECKPOINT)

    def warmup_iterations(self) -> int:
        """How many iterations at the start change what learns beside the policies only."""
        specs = self._rl_module_spec.rl_module_specs
        shared = [spec.model_config or {} for key, spec in specs.items() if key not in self.policies]
        return max((each.get("warmup_iterations", 0) for each in shared), default=0)

    def horizon(self) -> int:
        """Steps of an episode that does not end early."""
        return self.make_game().horizon

    @property
    def samples_meta_episodes(self) -> bool:
        """Whether a sample is a whole meta-episode of every game."""
        return bool(self.remembering)

    def plays_meta_episodes(self) -> bool:
        """Returns True if episodes are inner episodes of meta-episodes.

        That is so if there are online learners, or policies whose memory lives as long as a meta-episode.
        """
        return self._groups_copies() or self._frozen_inner_episodes is not None

    def inner_episodes(self) -> int:
        """M, inner episodes of a meta-episode; 1 where there are none."""
        if not self.plays_meta_episodes():
            return 1
        return self._frozen_inner_episodes or self.meta_settings.inner_episodes

    def group_size(self) -> int:
        """Copies of a game that go together, in runners and learners; 1 if each is for itself."""
        return self.meta_settings.copies if self._groups_copies() else 1

    def _groups_copies(self) -> bool:
        """Returns True if copies of the game form groups, which share an online learner or its gradient estimate."""
        return self.samples_meta_episodes or any(
            member.kind == LEARNING for player in self.assigned_players for member, _ in player.pool_members
        )

    def _inner_episodes_of_frozen_players(self) -> int | None:
        """Returns the inner episodes of a meta-episode for frozen players that remember them; None if none does.

        Raises:
            ValueError: If their own runs differ in it and this one does not set it, or a checkpoint cannot be read.
        """
        remembering: dict[int, str] = {}
        for player in self.assigned_players:
            for member, _ in player.pool_members:
                if member.kind != CHECKPOINT:
                    continue
                try:
                    number = remembered_inner_episodes(Path(member.source))
                except ValueError as error:
                    raise ValueError(f"players.{player.agent}: {error}") from None
                if number is not None:
                    remembering.setdefault(number, player.agent)
        if self.samples_meta_episodes or "inner_episodes" in self.meta_settings.model_fields_set:
            return self.meta_settings.inner_episodes if remembering else None
        if len(remembering) > 1:
            (first, agent), (second, other), *_ = remembering.items()
            raise ValueError(
                f"meta.inner_episodes: missing; the frozen players of {agent} and {other} remember {first} and {second}"
            )
        return next(iter(remembering), None)

    def rollout_steps(self) -> int:
        """T, how many steps of each game a sample holds: the horizon, or ``rollout_fragment_length`` if that is set.

        Where players remember inner episodes it is a whole meta-episode. RLlib sets that to 1 in its evaluation copy of
        a configuration; evaluation plays whole episodes.
        """
        if self.rollout_fragment_length == "auto" or self.in_evaluation:
            return self._whole_steps(self.make_game())
        return self.rollout_fragment_length

    def completes_episodes(self) -> bool:
        """Whether a sample is the first, whole episode of every game, and what comes after it does not count."""
        return self.batch_mode == "complete_episodes"

    def plays_whole_episodes(self, game: BatchedGame) -> bool:
        """Whether each stream of a sample begins with an episode, and is it to the end if nothing ends early."""
        whole = not game.terminates_early and self.rollout_steps() == self._whole_steps(game)
        return self.completes_episodes() or whole

    def _whole_steps(self, game: BatchedGame) -> int:
        """Steps of an episode that does not end early; of a meta-episode where players remember one."""
        return game.horizon * (self.inner_episodes() if self.samples_meta_episodes else 1)

    def loss_of(self, player: Player) -> str:
        """By which loss a player learns; an algorithm of which nothing is said changes something else of PPO."""
        return self.algorithms[player.algorithm]

    def module_class(self, player: Player) -> type[ActorCriticModule]:
        """The class of the module of a player that learns, who has neither one of its own nor RLlib's networks."""
        return ActorCriticModule

    def phases(self, game: BatchedGame) -> int:
        """Returns in how many phases of an episode environments are: fragments of an episode, or 1 without staggering.

        Args:
            game: One environment of the game.
        """
        steps = self.rollout_steps()
        if not self.stagger_episodes or self.in_evaluation or self.completes_episodes() or steps >= game.horizon:
            return 1
        return math.ceil(game.horizon / steps)

    def identifies_environments(self, game: BatchedGame) -> bool:
        """Returns whether learners ask which environment each row of a sample is of."""
        return False

    def keeps_final_observations(self, game: BatchedGame) -> bool:
        """Whether learners ask for what was seen at the end of episodes that were cut off inside a sample."""
        return self.bootstrap_at_horizon and not self.plays_whole_episodes(game)

    def sampling_device(self, worker_index: int) -> str | None:
        """Where a runner's games are; None for where RLlib would have them."""
        if worker_index or self.in_evaluation:
            return None
        if self.local_runner_device != "auto":
            return self.local_runner_device
        local_gpu = self.num_env_runners == 0 and self.num_learners == 0 and self.num_gpus_per_learner > 0
        return f"cuda:{self.local_gpu_idx}" if local_gpu else None

    @override(AlgorithmConfig)
    def get_rollout_fragment_length(self, worker_index: int = 0) -> int:
        """T; see :meth:`rollout_steps`."""
        return self.rollout_steps()

    @property
    def train_batch_size_per_learner(self) -> int:
        """Joint steps that each learner gets an iteration: all that one sample of every runner holds."""
        runners, learners = max(1, self.num_env_runners), max(1, self.num_learners)
        return runners * self.num_envs_per_env_runner * self.rollout_steps() // learners

    @train_batch_size_per_learner.setter
    def train_batch_size_per_learner(self, value: int | None) -> None:
        self._train_batch_size_per_learner = value

    def sample_bytes(self) -> int:
        """About how many bytes the samples of an iteration hold, of all runners together."""
        game = self.make_game()
        agents, spaces = game.num_agents, (game.observation_space, game.state_space)
        seen, state = (prod(space.shape or (1,)) * space.dtype.itemsize for space in spaces)
        per_step = agents * (seen + 4 * int(game.action_space.n) + 16) + 12 * agents**2 + state + 16
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
        """Puts players' own settings beside those that the user gave modules; a second time in their place."""
        given, derived = self._derived_overrides
        if self.algorithm_config_overrides_per_module != derived:
            given = self.algorithm_config_overrides_per_module
        derived = {key: {**given.get(key, {}), **specs.overrides.get(key, {})} for key in {**given, **specs.overrides}}
        self._derived_overrides = (given, derived)
        self.algorithm_config_overrides_per_module = derived
        self._per_module_overrides: dict[str, Any] = {}

    def _check_learning(self, game: BatchedGame, specs: ModuleSpecs) -> None:
        if not self.in_evaluation and not specs.learning:
            names = " or ".join(dict.fromkeys([RECIPROCATOR, *self.algorithms]))
            raise ValueError(f"players: nobody learns; at least one must be {names}")
        whole = self.plays_whole_episodes(game)
        if self.completes_episodes() and self.rollout_steps() != self._whole_steps(game):
            raise ValueError("rollout_fragment_length: with batch_mode complete_episodes only auto")
        for player in self.assigned_players:
            for each, _ in player.pool_members:
                if each.intrinsic and game.num_agents == 1:
                    name = next(iter(each.intrinsic))
                    raise ValueError(f"players.{player.agent}: {name} is towards others, and {self.env} has one agent")
                clips = each.settings.get("grad_clip", self.grad_clip) is not None
                if each.learns and self.loss_of(each) != PPO_LOSS and clips and self.grad_clip_by != "global_norm":
                    raise ValueError("grad_clip_by: only global_norm, for players that learn by policy gradients")
                for name in each.intrinsic if each.learns else ():
                    learned_by = intrinsic_reward(name).learned_by
                    if learned_by and name not in self.trained_intrinsic_rewards:
                        raise ValueError(
                            f"players.{player.agent}: {name} are learned by run: {' or '.join(learned_by)} only"
                        )
                if each.learns and self.loss_of(each) == POLICY_GRADIENT and not whole:
                    raise ValueError(
                        f"players.{player.agent}: {each.algorithm} learns from whole episodes; set batch_mode to"
                        " complete_episodes"
                    )
        if specs.with_memory:
            self._check_memory()
        one_length = whole and not game.terminates_early
        if self.normalize_returns and (self.lambda_ != 1.0 or self.bootstrap_at_horizon or not one_length):
            raise ValueError(
                "normalize_returns: needs lambda 1, bootstrap_at_horizon false and rollout_fragment_length auto, and a"
                " game whose episodes are of one length"
            )
        for spec in specs.shared.values():
            if (spec.model_config or {}).get("future_weight") and not whole and not spec.load_state_path:
                raise ValueError(
                    "reciprocity.future_weight: needs whole episodes of one length (rollout_fragment_length auto)"
                )

    def _check_sampling_settings(self) -> None:
        """Raises ValueError if a setting of the env runners has no such value, or none on this machine."""
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
        """Raises ValueError if ``local_runner_device`` is no device, or one that is not there."""
        import torch

        written = self.local_runner_device
        if written == "auto" or self.in_evaluation:  # which samples where RLlib would
            return
        try:
            device = torch.device(written)
        except RuntimeError:
            device = None
        if device is None or device.type not in ("cpu", "cuda"):
            raise ValueError(f"local_runner_device: {written!r} is not auto, cpu or cuda")
        # With a GPU of its own the algorithm runs on a machine that has one, which this need not be.
        has_gpu = self.num_gpus > 0 or (not self.num_learners and self.num_gpus_per_learner > 0)
        devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.type == "cuda" and not has_gpu and (device.index or 0) >= devices:
            available = f"has {devices} CUDA device{'s' * (devices != 1)}" if devices else "has no CUDA device"
            raise ValueError(f"local_runner_device: {written!r}: this machine {available}; use auto or cpu")

    def _check_sizes(self, game: BatchedGame) -> None:
        games, steps = self.num_envs_per_env_runner, self.rollout_steps()
        runners, learners = max(1, self.num_env_runners), max(1, self.num_learners)
        if not isinstance(games, int) or games < 1:
            raise ValueError(f"num_envs_per_env_runner: {games} is not a number of games")
        if self.plays_meta_episodes():
            self._check_meta_episodes(game)
        if steps < 1:
            raise ValueError(f"rollout_fragment_length: {steps} is not a number of steps")
        if self.in_evaluation:
            # Evaluation has env runners of its own, and nothing that it samples is trained on.
            return
        if runners * games % learners:
            raise ValueError(
                f"num_learners: {runners} runners x {games} games cannot be shared evenly by {learners} learners"
            )
        rows = self.train_batch_size_per_learner
        asked = self._train_batch_size_per_learner
        if asked is None and self.train_batch_size is not None:
            asked = self.train_batch_size // learners
        if asked not in (None, rows):
            raise ValueError(
                f"train_batch_size_per_learner: {asked} cannot be; {runners} runners x {games} games x {steps} steps"
                f" over {learners} learners are {rows} (leave it out, or change num_envs_per_env_runner)"
            )
        if self.minibatch_size is not None and not 1 <= self.minibatch_size <= rows:
            raise ValueError(f"minibatch_size: {self.minibatch_size} is not between 1 and the {rows} rows of a learner")

    def _check_meta_episodes(self, game: BatchedGame) -> None:
        games, copies = self.num_envs_per_env_runner, self.group_size()
        runners, learners = max(1, self.num_env_runners), max(1, self.num_learners)
        if game.terminates_early:
            raise ValueError(f"env: inner episodes are of one length, and those of {self.env} may end early")
        if games % copies:
            raise ValueError(
                f"num_envs_per_env_runner: {games} games are not whole groups of {copies} copies (meta.copies)"
            )
        if runners * games // copies % learners and not self.in_evaluation:
            raise ValueError(
                f"num_learners: {runners * games // copies} groups of copies cannot be shared evenly by {learners}"
                " learners"
            )
        if self.rollout_steps() != self._whole_steps(game):
            raise ValueError("rollout_fragment_length: only auto, where players learn between inner episodes")
        if self.samples_meta_episodes and self.completes_episodes() and not self.in_evaluation:
            raise ValueError("batch_mode: a sample is a whole meta-episode already; leave it out")

    def _check_memory(self) -> None:
        """Memories learn from streams of steps in their order."""
        if self.bootstrap_at_horizon:
            raise ValueError("bootstrap_at_horizon: not with a memory, whose value of a last observation is not kept")
        if self.minibatch_size is not None and self.minibatch_size < self.rollout_steps():
            raise ValueError(
                f"minibatch_size: {self.minibatch_size} is less than a stream of {self.rollout_steps()} steps,"
                " which a memory learns from"
            )
