"""The COALA algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override

from rllib_reciprocator.algorithms.coala.credit import Credit
from rllib_reciprocator.algorithms.coala.learner import COALA_PLAYER, COALALearner
from rllib_reciprocator.engine.algorithm import BatchedAlgorithm
from rllib_reciprocator.engine.config import BatchedConfig
from rllib_reciprocator.engine.losses import PPO_LOSS
from rllib_reciprocator.engine.meta_episodes import MetaSettings
from rllib_reciprocator.players import POOL


class COALASettings(MetaSettings):
    """Settings of meta-episodes and of the credit assignment over them.

    Attributes:
        inner_episodes: Number of inner episodes per meta-episode. Online learners update after each of them.
        copies: Number of environments per group. All environments of a group share the same online learners.
        credit: Credit that an action receives for rewards of later inner episodes: ``coala`` the sum over all
            environments of its group, ``mfos`` their mean, ``unaware`` those of its own environment only, ``myopic``
            none.
        population: Number of separately parameterized players that ``coala`` stands for. With more than one, no player
            controls two agents of an environment: each plays with the other players, never with itself.
        center: If True, subtracts from each credit its mean over the other groups at the same step. The mean is taken
            separately over groups with and without online learners among the co-players.
    """

    credit: Credit = "coala"
    population: Annotated[int, Field(ge=1, le=64)] = 1
    center: bool = True


class COALAConfig(BatchedConfig):
    """Configuration of :class:`COALA`, for ``coala`` players together with online learners and other players.

    .. code-block:: python

        config = (
            COALAConfig()
            .environment("ipd_v0", env_config={"num_steps": 10})
            .players({"player_0": "coala", "player_1": "learner/pg"})
            .meta(inner_episodes=10, copies=8)
        )
        algorithm = config.build_algo()
    """

    algorithms: ClassVar[Mapping[str, str]] = {**BatchedConfig.algorithms, COALA_PLAYER: PPO_LOSS}
    default_player = COALA_PLAYER
    meta_settings_class = COALASettings
    meta_settings: COALASettings
    remembering: ClassVar[tuple[str, ...]] = (COALA_PLAYER,)

    def __init__(self, algo_class: type | None = None) -> None:
        """Sets the defaults, which are tuned for the iterated prisoner's dilemma."""
        super().__init__(algo_class=algo_class or COALA)
        self.reward_scale = 0.05
        self.scale_advantages = True
        self.normalize_advantages = False
        self.num_envs_per_env_runner = 1024
        self.gamma = 1.0
        self.lambda_ = 1.0
        self.clip_param = 0.2
        self.entropy_coeff = 0.0
        self.grad_clip = 1.0
        self.num_epochs = 2

    @override(BatchedConfig)
    def training(
        self, *, reward_scale: float = NotProvided, scale_advantages: bool = NotProvided, **kwargs: Any
    ) -> COALAConfig:
        """Sets the training options; see also :meth:`BatchedConfig.training`.

        Args:
            reward_scale: Factor by which rewards are multiplied before critics and policies are trained on them.
            scale_advantages: If True, divides advantages by their standard deviation, a single one for all players and
                all kinds of co-players. Separate ones would change the relative weight of the kinds.
            **kwargs: Other settings.

        Returns:
            This configuration.
        """
        super().training(**kwargs)
        if reward_scale is not NotProvided:
            self.reward_scale = reward_scale
        if scale_advantages is not NotProvided:
            self.scale_advantages = scale_advantages
        return self

    @override(BatchedConfig)
    def written_players(self) -> Mapping[str, Any]:
        """Returns the players, with ``coala`` replaced by the teams of its population: ``coala_0``, ``coala_1``, ..."""
        size = self.meta_settings.population
        if size == 1:
            return self.player_mapping
        teams = [f"team/{COALA_PLAYER}_{index}" for index in range(size)]

        def unfold_player(key: str, player: Any) -> Any:
            if isinstance(player, Mapping) and player.get("player") == COALA_PLAYER:
                raise ValueError(f"players.{key}: with meta.population {COALA_PLAYER} has no settings of its own")
            pool = player.get(POOL) if isinstance(player, Mapping) else {player: 1.0}
            if not isinstance(pool, Mapping) or COALA_PLAYER not in pool:
                return player
            share = pool[COALA_PLAYER] / size
            remaining = {name: value for name, value in pool.items() if name != COALA_PLAYER}
            return {POOL: {**remaining, **dict.fromkeys(teams, share)}}

        return {key: unfold_player(key, player) for key, player in self.player_mapping.items()}

    @override(BatchedConfig)
    def draws_distinct_members(self) -> bool:
        """Returns whether there is a population, whose members play with each other and never with themselves."""
        return self.meta_settings.population > 1

    @override(BatchedConfig)
    def get_default_learner_class(self) -> type:
        """Returns the learner that assigns credit for later rewards in all environments of a group."""
        return COALALearner

    @override(BatchedConfig)
    def validate(self) -> None:
        """Validates the configuration and derives the settings that follow from players, environment and env runners.

        Raises:
            ValueError: If a setting is invalid. The message names the setting and a fix.
        """
        super().validate()
        if self.normalize_returns or self.bootstrap_at_horizon:
            raise ValueError("normalize_returns and bootstrap_at_horizon: set both to false for whole meta-episodes")


class COALA(BatchedAlgorithm):
    """PPO with memory over whole meta-episodes and with credit assignment through the learning of co-players.

    An iteration samples one meta-episode of all groups of environments, in which naive online learners update between
    inner episodes. PPO then trains on the credit of each action
    (:func:`rllib_reciprocator.algorithms.coala.credit.assign_credit`). ``credit: mfos`` gives the algorithm M-FOS.

    Source: Meulemans et al., "Multi-agent cooperation through learning-aware policy gradients", ICLR 2025.
    """

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> COALAConfig:
        """Returns the default configuration."""
        return COALAConfig(algo_class=cls)
