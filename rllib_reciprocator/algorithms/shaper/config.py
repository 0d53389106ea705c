"""The configuration of Shaper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override

from rllib_reciprocator.algorithms.coala import COALAConfig

if TYPE_CHECKING:
    from rllib_reciprocator.models import ActorCriticModule
    from rllib_reciprocator.players import Player

SHAPER_PLAYER, EVOLUTION = "shaper", "evolution"


class ShaperConfig(COALAConfig):
    """Players ``shaper``, and learning players and others beside them, in one of the batched games.

    .. code-block:: python

        config = (
            ShaperConfig()
            .environment("ipd_v0", env_config={"num_steps": 10})
            .players({"player_0": "shaper", "player_1": "learner/pg"})
            .meta(inner_episodes=10, copies=8)
            .training(sigma=0.3)
        )
        algorithm = config.build_algo()
    """

    algorithms: ClassVar[Mapping[str, str]] = {**COALAConfig.algorithms, SHAPER_PLAYER: EVOLUTION}
    default_player = SHAPER_PLAYER
    remembering: ClassVar[tuple[str, ...]] = (*COALAConfig.remembering, SHAPER_PLAYER)

    def __init__(self, algo_class: type | None = None) -> None:
        """Sets the defaults: those that learn in the iterated prisoner's dilemma."""
        from rllib_reciprocator.algorithms.shaper.shaper import Shaper

        super().__init__(algo_class=algo_class or Shaper)
        self.sigma: float | list[list[float]] = 0.3
        self.num_envs_per_env_runner = 2048
        self.lr = 0.05

    @override(COALAConfig)
    def training(self, *, sigma: float | list[list[int | float]] = NotProvided, **kwargs: Any) -> ShaperConfig:
        """Sets how players learn; see also :meth:`COALAConfig.training`.

        Args:
            sigma: Standard deviation of the perturbations of ``shaper`` players, a number or a schedule by joint steps,
                ``[[step, deviation], ..]``.
            **kwargs: Other settings.

        Returns:
            This configuration.
        """
        super().training(**kwargs)
        if sigma is not NotProvided:
            self.sigma = sigma
        return self

    @override(COALAConfig)
    def get_default_learner_class(self) -> type:
        """The learner that evolves ``shaper`` players, and lets others learn as COALA does."""
        from rllib_reciprocator.algorithms.shaper.learner import ShaperLearner

        return ShaperLearner

    @override(COALAConfig)
    def module_class(self, player: Player) -> type[ActorCriticModule]:
        """Those that evolve have modules of their own kind."""
        from rllib_reciprocator.algorithms.shaper.evolved_module import EvolvedModule

        return EvolvedModule if self.loss_of(player) == EVOLUTION else super().module_class(player)
