"""The configuration of Shaper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override
from ray.rllib.utils.schedules.scheduler import Scheduler

from rllib_reciprocator.algorithms.coala import COALAConfig

if TYPE_CHECKING:
    from rllib_reciprocator.models import ActorCriticModule
    from rllib_reciprocator.players import Player

SHAPER_PLAYER, EVOLUTION = "shaper", "evolution"
# Larger perturbations saturate every policy.
MAX_SIGMA = 1e3


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
            sigma: Standard deviation of the perturbations of ``shaper`` players, above 0 and at most 1000; a number, or
                a schedule by joint steps, ``[[step, deviation], ..]``.
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

    @override(COALAConfig)
    def validate(self) -> None:
        """Derives what follows from players, games and runners, and checks everything.

        Raises:
            ValueError: With the setting at fault and how to mend it.
        """
        super().validate()
        self._check_sigma()
        self._check_population()

    def _check_sigma(self) -> None:
        """Raises ValueError if perturbations have, or reach by a schedule, a standard deviation out of range."""
        Scheduler.validate(
            fixed_value_or_schedule=self.sigma, setting_name="sigma", description="standard deviation of perturbations"
        )
        points = self.sigma if isinstance(self.sigma, list | tuple) else [(None, self.sigma)]
        for step, value in points:
            if not 0.0 < value <= MAX_SIGMA:
                at = "" if step is None else f" at step {step}"
                raise ValueError(
                    f"sigma: {value:g}{at} is no standard deviation of perturbations, from which shaper learns; it must"
                    f" be above 0 and at most {MAX_SIGMA:g}"
                )

    def _check_population(self) -> None:
        """Raises ValueError if a module has a single perturbation in an iteration, with nothing to compare it to."""
        if self.in_evaluation:
            return
        copies = self.meta_settings.copies
        groups = max(1, self.num_env_runners) * self.num_envs_per_env_runner // copies
        agents: Counter[str] = Counter()
        for index, player in enumerate(self.assigned_players):
            for (member, _), (module_id, _) in zip(player.pool_members, self._alternatives[index], strict=True):
                agents[module_id] += member.learns and self.loss_of(member) == EVOLUTION
        for module_id, count in agents.items():
            if count and groups * count < 2:
                raise ValueError(
                    f"num_envs_per_env_runner: {self.num_envs_per_env_runner} environments are one group of meta.copies"
                    f" {copies}: {module_id} has a single perturbation, whose fitness is compared with no other; use"
                    f" {2 * copies} or more"
                )
