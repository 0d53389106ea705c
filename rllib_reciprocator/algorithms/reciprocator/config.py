"""The configuration of the Reciprocator algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from ray.rllib.utils.annotations import override
from torch import Tensor

import social_dilemmas
from rllib_reciprocator import ray_warnings
from rllib_reciprocator.algorithms.reciprocator.settings import ReciprocitySettings, model_settings_class
from rllib_reciprocator.callbacks import SocialMetricsCallback
from rllib_reciprocator.estimators import (
    CounterfactualInfluence,
    Influence,
    InfluenceEstimator,
    OwnViewInfluence,
    RewardModelInfluence,
    TabularInfluence,
    TransitionInfluence,
)
from rllib_reciprocator.estimators.reward_model import MODELLED, POLICY
from rllib_reciprocator.estimators.view import OWN, STATE, view, view_space
from rllib_reciprocator.models import OBSERVES, PREDICTS, ActorCriticModule, DefaultModelModule
from rllib_reciprocator.players import (
    AXELROD,
    CHECKPOINT,
    RECIPROCATOR,
    SCRIPTED,
    AxelrodModule,
    Player,
    ScriptedModule,
    assign,
)
from rllib_reciprocator.players.frozen import frozen_module_spec
from rllib_reciprocator.rewards import REWARDS, ReciprocalRule, balance_after
from rllib_reciprocator.rollout import INFLUENCE_MODULE_ID, BatchedEnvRunner
from social_dilemmas.batched_game import BatchedGame


def _own_module(agent_id: str, episode: Any = None, **kwargs: Any) -> str:
    """Every seat has a module of its own name."""
    return agent_id


class ReciprocatorConfig(PPOConfig):
    """Reciprocators, and whoever plays with them, in one of the batched games.

    .. code-block:: python

        config = (
            ReciprocatorConfig()
            .environment("ipd_v0", env_config={"num_steps": 32})
            .players({"player_0": "reciprocator", "player_1": "ppo"})
            .reciprocity(reward="petty", weight=5.0)
            .training(lr=0.005, gamma=0.96)
        )
        algorithm = config.build_algo()

    From the players follow the RLModule specs, the policy mapping and which policies learn; from games, steps and
    runners follow the batch sizes. Both are derived when the configuration is validated.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        """Sets the defaults; those of PPO are the paper's for the iterated prisoner's dilemma, with wider networks."""
        from rllib_reciprocator.algorithms.reciprocator.reciprocator import Reciprocator

        ray_warnings.drop()
        super().__init__(algo_class=algo_class or Reciprocator)
        self.player_mapping: dict[str, Any] = {"player_*": RECIPROCATOR}
        self.reciprocity_settings = ReciprocitySettings()
        self.normalize_advantages = True
        self.normalize_returns = False
        self.bootstrap_at_horizon = False

        self.algorithm_config_overrides_per_module: dict[str, Any] = {}
        self.env_runner_cls = BatchedEnvRunner
        self.callbacks_class = SocialMetricsCallback
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

    def players(self, players: Mapping[str, Any]) -> ReciprocatorConfig:
        """Says who plays.

        Args:
            players: Player by seat or pattern of seats: ``reciprocator``, ``ppo``, ``scripted/STRATEGY``, or
                ``checkpoint/PATH`` for a frozen player of an earlier run; or a mapping with ``player`` and settings of
                its own, as ``{player: ppo, lr: 0.001}`` (:func:`rllib_reciprocator.players.assign`).

        Returns:
            This configuration.
        """
        self.player_mapping = dict(players)
        return self

    def reciprocity(
        self,
        *,
        reward: str = NotProvided,
        weight: float | dict[str, float] | None = NotProvided,
        balance_decay: float = NotProvided,
        normalize: bool = NotProvided,
        observe_balance: bool | None = NotProvided,
        balance_scale: float = NotProvided,
        predict_balance_coeff: float = NotProvided,
        influence: str = NotProvided,
        future_weight: float = NotProvided,
        estimator_sees: str = NotProvided,
        counterfactual: str | None = NotProvided,
        estimator_hiddens: list[int] = NotProvided,
        estimator_lr: float = NotProvided,
        estimator_epochs: int = NotProvided,
        estimator_minibatch_size: int = NotProvided,
        tau: float = NotProvided,
        warmup_iterations: int = NotProvided,
        buffer_iterations: int = NotProvided,
        update_period_iters: int = NotProvided,
        prior: float = NotProvided,
        exploration: float = NotProvided,
        always_estimate: bool = NotProvided,
    ) -> ReciprocatorConfig:
        """Sets how Reciprocators reciprocate. Unset settings keep their values.

        Args:
            reward: Form of the reciprocal reward, one of ``rllib_reciprocator.rewards.REWARDS``. The default is that of
                the paper's matrix-game code. The paper's own, ``petty_payoff``, debits what one gave: two players who
                always cooperate then owe each other nothing, and in the prisoner's dilemma neither learns to
                (cooperation stays near a half for 50 iterations, with decays from 0 to 0.96).
            weight: Of the reciprocal beside the extrinsic reward: a number, or ``start``, ``end`` and
                ``per_iteration`` of one that moves, up or down. None for ``(N - 1) ** 2`` times 5.0 where the game has
                a payoff table (the paper's for matrix games), and times 0.5 elsewhere (the paper's for Coins is 1.0):
                each of N - 1 others is that share of the mean that a Reciprocator is paid for, and what one's action
                does to the others is shared among as many.
            balance_decay: Share of the influence balance that is kept from step to step (the paper's decay d), from 0
                to 1. The paper's 0 for matrix games, gamma for Coins.
            normalize: Whether reciprocal rewards are standardised over the batch before they are weighted.
            observe_balance: Whether a Reciprocator sees its balance towards each other player; None for yes, unless
                the game has a payoff table. (What is to be answered in a matrix game is seen in the last actions.)
            balance_scale: It sees ``tanh(balance / balance_scale)``.
            predict_balance_coeff: Above 0, of an auxiliary loss: Reciprocators that do not see their balance predict it
                from what they remember, so that their memory learns to keep what tells it.
            influence: The influence estimator: ``tabular`` for games with a payoff table; for any game ``reward`` (a
                learned model, with exact expectations over the influencer's policy) or ``counterfactual`` (the paper's
                general form, with learned counterfactual networks); for Coins ``transition`` (the paper's form for it:
                the future through a learned transition model). ``auto``: tabular where it can be, else reward.
            future_weight: Of the influence on returns after the step, discounted by gamma, beside that on the reward
                of the step (the paper's: 1). 0 by default: in Coins the returns after a step depend far more on
                what is done later than on the step, and what the estimator makes of that noise freezes play.
            estimator_sees: ``state``, the joint state; ``observations``, those of all players; or ``own``: each
                Reciprocator learns from its own observations and rewards, and the actions that it sees, and uses
                nothing else of anybody's (:class:`rllib_reciprocator.estimators.OwnViewInfluence`). Needs ``reward``.
            counterfactual: What ``reward`` and ``transition`` put in the place of an action: ``policy``, the
                probabilities with which the influencer chose; ``modelled``, what it is learned to do where it sees what
                the estimator sees; or ``uniform``. None for policy, or modelled where each sees its own.
            estimator_hiddens: Widths of the hidden layers of a learned estimator.
            estimator_lr: Its learning rate.
            estimator_epochs: How often an update of it goes through its buffer.
            estimator_minibatch_size: Rows of a gradient step of it.
            tau: Below 1, influence is read from copies of the estimator's networks, which move by this share towards
                them with every update.
            warmup_iterations: How many iterations at the start change the estimator only (the paper's 2 in Coins).
            buffer_iterations: How many iterations ``tabular`` counts behaviour in, and a learned estimator learns from.
            update_period_iters: Every how many iterations the estimator is updated.
            prior: How often ``tabular`` takes each action to have been seen in each state before any was.
            exploration: Share of uniform play in the counterfactual of ``tabular``. Above 0 it keeps influence, and
                with it the reciprocal reward, alive where a player always does the same.
            always_estimate: Whether influence is estimated even where nobody reciprocates, for whoever looks on.

        Returns:
            This configuration.

        Raises:
            pydantic.ValidationError: If a value has the wrong type or is out of range.
        """
        given = {name: value for name, value in locals().items() if name != "self" and value is not NotProvided}
        current = self.reciprocity_settings.model_dump()
        self.reciprocity_settings = ReciprocitySettings.model_validate({**current, **given})
        return self

    @override(PPOConfig)
    def training(
        self,
        *,
        normalize_advantages: bool = NotProvided,
        normalize_returns: bool = NotProvided,
        bootstrap_at_horizon: bool = NotProvided,
        **kwargs: Any,
    ) -> ReciprocatorConfig:
        """Sets how players learn; see also :meth:`PPOConfig.training`.

        Args:
            normalize_advantages: Whether advantages are standardised over the batch of each player.
            normalize_returns: Whether returns are standardised over the batch before the value is taken off, as in
                the paper's code. Needs whole episodes, ``lambda_=1`` and ``bootstrap_at_horizon=False``.
            bootstrap_at_horizon: Whether the value of the last observation stands for rewards after the horizon, as
                in RLlib. The paper's code counts nothing after it.
            **kwargs: RLlib's own settings.

        Returns:
            This configuration.
        """
        super().training(**kwargs)
        for name, value in (
            ("normalize_advantages", normalize_advantages),
            ("normalize_returns", normalize_returns),
            ("bootstrap_at_horizon", bootstrap_at_horizon),
        ):
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    @override(PPOConfig)
    def get_default_learner_class(self) -> type:
        """The Reciprocator's learner."""
        from rllib_reciprocator.algorithms.reciprocator.learner import ReciprocatorLearner

        return ReciprocatorLearner

    @override(AlgorithmConfig)
    def update_from_dict(self, config_dict: dict[str, Any]) -> ReciprocatorConfig:
        """Takes settings from a dict, with ``players``, ``reciprocity`` and ``model_config`` as in YAML files."""
        rest = dict(config_dict)
        if "players" in rest:
            self.players(rest.pop("players"))
        if "reciprocity" in rest:
            self.reciprocity(**rest.pop("reciprocity"))
        if "model_config" in rest:
            self.rl_module(model_config=rest.pop("model_config"))
        return super().update_from_dict(rest)

    @override(AlgorithmConfig)
    def validate(self) -> None:
        """Derives what follows from players, games and runners, and checks everything.

        Raises:
            ValueError: With the setting at fault and how to mend it.
        """
        game = self._game()
        seated = assign(self.player_mapping, game.agents, game.action_names)
        self._check_players(seated)
        self._check_learning(game, seated)
        self._check_sizes(game)
        # A list: a set would order the modules, and with them the draws of their first weights, by hash seed.
        self.policies = [player.seat for player in seated]
        self.policy_mapping_fn = _own_module
        self.policies_to_train = [player.seat for player in seated if player.learns]
        self._rl_module_spec = MultiRLModuleSpec(rl_module_specs=self._module_specs(game, seated))
        self.algorithm_config_overrides_per_module = {
            **self.algorithm_config_overrides_per_module,
            **{player.seat: dict(player.overrides) for player in seated if player.overrides},
            INFLUENCE_MODULE_ID: {"lr": self.reciprocity_settings.estimator_lr},
        }
        super().validate()

    def seated(self) -> tuple[Player, ...]:
        """Who plays each seat, in the order of the game's agents."""
        game = self._game()
        return assign(self.player_mapping, game.agents, game.action_names)

    def reciprocal_rule(self) -> ReciprocalRule:
        """The form of the reciprocal reward."""
        return REWARDS[self.reciprocity_settings.reward]

    def next_balance(self, balance: Tensor, influence: Influence) -> Tensor:
        """The influence balance ``[.., N, N]`` after a step."""
        decay = self.reciprocity_settings.balance_decay
        return balance_after(balance, influence.received, self.reciprocal_rule(), decay, influence.given)

    def estimator_view(self, game: BatchedGame, obs: Tensor) -> Tensor:
        """What the influence estimator sees of the games now, given the observations ``[B, N, ..]``."""
        return view(game, obs, self.reciprocity_settings.estimator_sees)

    def default_weight(self) -> float:
        """The weight of the reciprocal reward where none is set."""
        game = self._game()
        return (0.5 if game.payoffs is None else 5.0) * (game.num_agents - 1) ** 2

    def rollout_steps(self) -> int:
        """T, how many steps of each game a sample holds: the horizon, or less if ``rollout_fragment_length`` is set.

        RLlib sets that to 1 in its evaluation copy of a configuration; evaluation plays whole episodes.
        """
        if self.rollout_fragment_length == "auto" or self.in_evaluation:
            return self._game().horizon
        return self.rollout_fragment_length

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
        game = self._game()
        agents, seen = game.num_agents, prod(game.observation_space.shape or (1,))
        state = prod(game.state_space.shape or (1,))
        per_step = agents * (seen + int(game.action_space.n) + 4) + 3 * agents**2 + state + 4
        steps = max(1, self.num_env_runners) * self.num_envs_per_env_runner * self.rollout_steps()
        return 4 * steps * per_step

    def _game(self) -> BatchedGame:
        """One copy of the game, for its spaces and sizes."""
        if not isinstance(self.env, str):
            raise ValueError(
                f"env: Reciprocator plays registered games, by id: {', '.join(social_dilemmas.game_ids())}"
            )
        return social_dilemmas.make(self.env, **dict(self.env_config))

    def _check_learning(self, game: BatchedGame, seated: tuple[Player, ...]) -> None:
        if not self.in_evaluation and not any(player.learns for player in seated):
            raise ValueError("players: nobody learns; at least one must be reciprocator or ppo")
        whole = self.rollout_steps() == game.horizon
        shape = game.observation_space.shape
        for networks in (self._networks(player) for player in seated if player.learns):
            if networks.get("use_gru") or networks.get("use_lstm"):
                self._check_memory(game, whole)
            if networks["conv_filters"] and (shape is None or len(shape) != 3):
                raise ValueError(f"model_config.conv_filters: {self.env} shows {shape}, not planes x height x width")
        if self.normalize_returns and (self.lambda_ != 1.0 or self.bootstrap_at_horizon or not whole):
            raise ValueError(
                "normalize_returns: needs lambda 1, bootstrap_at_horizon false and rollout_fragment_length auto"
            )
        if self.reciprocity_settings.future_weight and not whole:
            raise ValueError("reciprocity.future_weight: needs whole episodes (rollout_fragment_length auto)")
        if self.bootstrap_at_horizon and game.terminates_early:
            raise ValueError(f"bootstrap_at_horizon: not for {self.env}, whose games end at different steps")

    def _check_sizes(self, game: BatchedGame) -> None:
        games, steps = self.num_envs_per_env_runner, self.rollout_steps()
        runners, learners = max(1, self.num_env_runners), max(1, self.num_learners)
        if not isinstance(games, int) or games < 1:
            raise ValueError(f"num_envs_per_env_runner: {games} is not a number of games")
        if steps < 1 or game.horizon % steps:
            raise ValueError(f"rollout_fragment_length: {steps} does not divide the episode of {game.horizon} steps")
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

    def _module_specs(self, game: BatchedGame, seated: tuple[Player, ...]) -> dict[str, RLModuleSpec]:
        """A module for every seat, and the estimator where somebody needs influence."""
        spaces = {"observation_space": game.observation_space, "action_space": game.action_space}
        specs: dict[str, RLModuleSpec] = {}
        for player in seated:
            if player.kind == SCRIPTED:
                specs[player.seat] = RLModuleSpec(ScriptedModule, model_config={"strategy": player.source}, **spaces)
            elif player.kind == AXELROD:
                specs[player.seat] = self._axelrod_spec(game, player)
            elif player.kind == CHECKPOINT:
                specs[player.seat] = frozen_module_spec(player, **spaces)
            else:
                specs[player.seat] = self._learner_spec(game, player)
        needs_influence = self.reciprocity_settings.always_estimate or any(
            player.kind == RECIPROCATOR or (specs[player.seat].model_config or {}).get("num_balances")
            for player in seated
        )
        if needs_influence:
            specs[INFLUENCE_MODULE_ID] = self._influence_spec(game)
        return specs

    def _axelrod_spec(self, game: BatchedGame, player: Player) -> RLModuleSpec:
        """The module of a strategy of the Axelrod library."""
        if game.num_agents != 2 or game.payoffs is None:
            raise ValueError(f"players.{player.seat}: {player.written} plays matrix games of two")
        if self.rollout_steps() != game.horizon:
            raise ValueError(f"players.{player.seat}: {player.written} needs rollout_fragment_length auto")
        # Each seat its own draws, and its own side of the table.
        index = game.agents.index(player.seat)
        payoffs = game.payoffs if index == 0 else game.payoffs.transpose(0, 1).flip(-1)
        settings = {
            "strategy": player.source,
            "payoffs": payoffs.tolist(),
            "seed": None if self.seed is None else [self.seed, index],
        }
        return RLModuleSpec(
            AxelrodModule,
            observation_space=game.observation_space,
            action_space=game.action_space,
            model_config=settings,
        )

    def _learner_spec(self, game: BatchedGame, player: Player) -> RLModuleSpec:
        """The module of a player that learns."""
        reciprocity, networks = self.reciprocity_settings, self._networks(player)
        reciprocates = player.kind == RECIPROCATOR
        observes = game.payoffs is None if reciprocity.observe_balance is None else reciprocity.observe_balance
        predicts = reciprocity.predict_balance_coeff > 0
        if predicts and reciprocity.observe_balance:
            raise ValueError("reciprocity.predict_balance_coeff: who observes the balance has nothing to predict")
        settings: dict[str, Any] = {
            "episode_steps": self.rollout_steps(),
            "num_balances": game.num_agents - 1 if reciprocates and (observes or predicts) else 0,
            "balance_scale": reciprocity.balance_scale,
        }
        module: type[RLModule] = ActorCriticModule
        if networks.pop("model") == "rllib":
            if predicts:
                raise ValueError("reciprocity.predict_balance_coeff: only for model_config.model actor_critic")
            module, settings = DefaultModelModule, {**settings, "rllib": networks}
            try:
                module(observation_space=game.observation_space, action_space=game.action_space, model_config=settings)
            except (ValueError, RuntimeError, TypeError, AssertionError) as error:
                raise ValueError(f"model_config: RLlib cannot build it ({error})") from None
        else:
            settings = {**networks, **settings, "balance_use": PREDICTS if predicts else OBSERVES}
        return RLModuleSpec(
            module, observation_space=game.observation_space, action_space=game.action_space, model_config=settings
        )

    def _influence_spec(self, game: BatchedGame) -> RLModuleSpec:
        """The influence estimator that the settings name."""
        reciprocity = self.reciprocity_settings
        sees = reciprocity.estimator_sees
        settings: dict[str, Any] = {
            "num_agents": game.num_agents,
            "buffer_iterations": reciprocity.buffer_iterations,
            "update_period_iters": reciprocity.update_period_iters,
        }
        try:
            space = view_space(game, sees)
        except ValueError as error:
            raise ValueError(f"reciprocity.estimator_sees: {error}") from None
        estimator: type[InfluenceEstimator]
        if reciprocity.influence == "tabular" or (reciprocity.influence == "auto" and game.payoffs is not None):
            if game.payoffs is None:
                raise ValueError(
                    f"reciprocity.influence: tabular needs a game with a payoff table; {self.env} has none, use reward"
                )
            if sees != STATE:
                raise ValueError(
                    f"reciprocity.estimator_sees: tabular looks states up; use influence reward with {sees}"
                )
            estimator = TabularInfluence
            settings |= {
                "payoffs": game.payoffs.tolist(),
                "prior": reciprocity.prior,
                "exploration": reciprocity.exploration,
            }
        else:
            learned: dict[str, Any] = {"counterfactual": CounterfactualInfluence, "transition": TransitionInfluence}
            estimator = learned.get(reciprocity.influence, RewardModelInfluence)
            if sees == OWN:
                estimator = self._own_view()
            estimator.check_space(space)
            settings |= {
                "counterfactual": reciprocity.counterfactual or (MODELLED if sees == OWN else POLICY),
                "tau": reciprocity.tau,
                "future_weight": reciprocity.future_weight,
                "gamma": self.gamma,
                "hiddens": reciprocity.estimator_hiddens,
                "epochs": reciprocity.estimator_epochs,
                "minibatch_size": reciprocity.estimator_minibatch_size,
            }
        return RLModuleSpec(estimator, observation_space=space, action_space=game.action_space, model_config=settings)

    def _own_view(self) -> type[InfluenceEstimator]:
        """The estimator of Reciprocators that each see their own."""
        reciprocity = self.reciprocity_settings
        if reciprocity.influence not in ("auto", "reward"):
            raise ValueError(f"reciprocity.estimator_sees: own goes with influence reward, not {reciprocity.influence}")
        if reciprocity.counterfactual == POLICY:
            raise ValueError("reciprocity.counterfactual: who sees its own knows no policies; use modelled or uniform")
        if self.reciprocal_rule().debits_own:
            raise ValueError(f"reciprocity.reward: {reciprocity.reward} counts what others do to themselves, unseen")
        return OwnViewInfluence

    def _check_players(self, seated: tuple[Player, ...]) -> None:
        for player in seated:
            if player.team or player.module:
                what = "team" if player.team else "module"
                raise ValueError(f"players.{player.seat}: {what}/.. is for RLlib's own algorithms (run: PPO), not here")

    def _networks(self, player: Player) -> dict[str, Any]:
        """The settings of a learning player's networks: those of all, and its own."""
        of_all = dict(self._model_config if isinstance(self._model_config, dict) else vars(self._model_config))
        given = {**of_all, **player.settings.get("model_config", {})}
        return model_settings_class(given).model_validate(given).model_dump()

    def _check_memory(self, game: BatchedGame, whole: bool) -> None:
        """Memories learn from whole episodes, in the order in which they were played."""
        if not whole or game.terminates_early or self.bootstrap_at_horizon:
            raise ValueError(
                "model_config: a memory needs whole episodes of one length, rollout_fragment_length auto and"
                " bootstrap_at_horizon false"
            )
        if self.shuffle_batch_per_epoch:
            raise ValueError("shuffle_batch_per_epoch: a memory learns from steps in their order; set it to false")
        if self.minibatch_size is not None and self.minibatch_size % game.horizon:
            raise ValueError(
                f"minibatch_size: {self.minibatch_size} is not a whole number of episodes ({game.horizon} steps)"
            )
