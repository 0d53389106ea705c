"""The configuration of Shaper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override

from rllib_reciprocator.algorithms.coala import COALAConfig
from rllib_reciprocator.models import ActorCriticModule

if TYPE_CHECKING:
    from rllib_reciprocator.batched.module_specs import ModuleSpecs
    from social_dilemmas.batched_game import BatchedGame

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
    def complete_specs(self, specs: ModuleSpecs, game: BatchedGame) -> None:
        """Those that evolve have modules of their own kind."""
        from rllib_reciprocator.algorithms.shaper.evolved_module import EvolvedModule

        super().complete_specs(specs, game)
        for index, player in enumerate(self.assigned_players):
            for (each, _), (module_id, _) in zip(player.alternatives, specs.alternatives[index], strict=True):
                if each.learns and self.loss_of(each) == EVOLUTION:
                    spec = specs.of_players[module_id]
                    if spec.module_class not in (ActorCriticModule, EvolvedModule):
                        raise ValueError(
                            f"players.{each.agent}: {SHAPER_PLAYER} needs the networks of model_config.model"
                            " actor_critic"
                        )
                    spec.module_class = EvolvedModule
