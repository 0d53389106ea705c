"""The configuration of COALA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override

from rllib_reciprocator.algorithms.coala.credit import Credit
from rllib_reciprocator.engine.config import BatchedConfig
from rllib_reciprocator.engine.losses import PPO_LOSS
from rllib_reciprocator.engine.meta_episodes import MetaSettings
from rllib_reciprocator.players import POOL

COALA_PLAYER = "coala"


class COALASettings(MetaSettings):
    """How meta-episodes are made up, and what is learned from them.

    Attributes:
        inner_episodes: Inner episodes of a meta-episode, after each of which learning players learn.
        copies: Copies of a game in a group, in all of which the same learning players play.
        credit: What of later inner episodes an action is credited with: ``coala`` the sum over all copies of its
            group, ``mfos`` their mean, ``unaware`` the own copy's, ``myopic`` nothing.
        population: How many players, with parameters of their own, ``coala`` stands for. With more than one none plays
            two agents of a game: each meets the others, never itself.
        center: Whether credits have their mean over the other groups at the same step taken off: over those in which
            others learn, and over the rest, each by itself.
    """

    credit: Credit = "coala"
    population: Annotated[int, Field(ge=1, le=64)] = 1
    center: bool = True


class COALAConfig(BatchedConfig):
    """Players ``coala``, and learning players and others beside them, in one of the batched games.

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
        """Sets the defaults: those that learn in the iterated prisoner's dilemma."""
        from rllib_reciprocator.algorithms.coala.coala import COALA

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
        """Sets how players learn; see also :meth:`BatchedConfig.training`.

        Args:
            reward_scale: What rewards are multiplied with before critics and policies learn from them.
            scale_advantages: Whether what policies learn from is divided by its standard deviation, one for all players
                and kinds of co-players: by one for each, how much each kind counts would change.
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
        """With a population, ``coala`` as its members: teams ``coala_0``, ``coala_1``, ..."""
        size = self.meta_settings.population
        if size == 1:
            return self.player_mapping
        teams = [f"team/{COALA_PLAYER}_{number}" for number in range(size)]

        def written(key: str, player: Any) -> Any:
            if isinstance(player, Mapping) and player.get("player") == COALA_PLAYER:
                raise ValueError(f"players.{key}: with meta.population {COALA_PLAYER} has no settings of its own")
            pool = player.get(POOL) if isinstance(player, Mapping) else {player: 1.0}
            if not isinstance(pool, Mapping) or COALA_PLAYER not in pool:
                return player
            share = pool[COALA_PLAYER] / size
            others = {name: each for name, each in pool.items() if name != COALA_PLAYER}
            return {POOL: {**others, **dict.fromkeys(teams, share)}}

        return {key: written(key, player) for key, player in self.player_mapping.items()}

    @override(BatchedConfig)
    def draws_distinct_members(self) -> bool:
        """Whether there is a population, whose members meet each other and never themselves."""
        return self.meta_settings.population > 1

    @override(BatchedConfig)
    def get_default_learner_class(self) -> type:
        """The learner that credits actions with what comes later in all copies."""
        from rllib_reciprocator.algorithms.coala.learner import COALALearner

        return COALALearner

    @override(BatchedConfig)
    def validate(self) -> None:
        """Derives what follows from players, games and runners, and checks everything.

        Raises:
            ValueError: With the setting at fault and how to mend it.
        """
        super().validate()
        if self.normalize_returns or self.bootstrap_at_horizon:
            raise ValueError("normalize_returns and bootstrap_at_horizon: not where a sample is a whole meta-episode")
