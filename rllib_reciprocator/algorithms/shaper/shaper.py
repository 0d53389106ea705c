"""The Shaper algorithm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override
from ray.rllib.utils.schedules.scheduler import Scheduler

from rllib_reciprocator.algorithms.coala import COALA, COALAConfig
from rllib_reciprocator.algorithms.shaper.evolved_module import EvolvedModule
from rllib_reciprocator.algorithms.shaper.learner import EVOLUTION, ShaperLearner

if TYPE_CHECKING:
    from rllib_reciprocator.models import ActorCriticModule
    from rllib_reciprocator.players import Player


SHAPER_PLAYER = "shaper"
# Larger perturbations saturate every policy.
MAX_SIGMA = 1e3


class ShaperConfig(COALAConfig):
    """Configuration of :class:`Shaper`, for ``shaper`` players together with online learners and other players.

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
        """Sets the defaults, which are tuned for the iterated prisoner's dilemma."""
        super().__init__(algo_class=algo_class or Shaper)
        self.sigma: float | list[list[float]] = 0.3
        self.num_envs_per_env_runner = 2048
        self.lr = 0.05

    @override(COALAConfig)
    def training(self, *, sigma: float | list[list[int | float]] = NotProvided, **kwargs: Any) -> ShaperConfig:
        """Sets the training options; see also :meth:`COALAConfig.training`.

        Args:
            sigma: Standard deviation of the perturbations of ``shaper`` players, above 0 and at most 1000: a number, or
                a schedule over environment steps, ``[[step, sigma], ..]``.
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
        """Returns the learner that trains ``shaper`` players by evolution strategies, and other players as COALA."""
        return ShaperLearner

    @override(COALAConfig)
    def module_class(self, player: Player) -> type[ActorCriticModule]:
        """Returns the module class of a player, which can be perturbed for players trained by evolution strategies."""
        return EvolvedModule if self.loss_of(player) == EVOLUTION else super().module_class(player)

    @override(COALAConfig)
    def validate(self) -> None:
        """Validates the configuration and derives the settings that follow from players, environment and env runners.

        Raises:
            ValueError: If a setting is invalid. The message names the setting and a fix.
        """
        super().validate()
        self._check_sigma()
        self._check_population()

    def _check_sigma(self) -> None:
        """Raises ValueError if ``sigma``, or a value of its schedule, is out of range."""
        Scheduler.validate(
            fixed_value_or_schedule=self.sigma, setting_name="sigma", description="standard deviation of perturbations"
        )
        points = self.sigma if isinstance(self.sigma, list | tuple) else [(None, self.sigma)]
        for step, value in points:
            if not 0.0 < value <= MAX_SIGMA:
                suffix = "" if step is None else f" at step {step}"
                raise ValueError(
                    f"sigma: {value:g}{suffix} is out of range for the standard deviation of perturbations; it must"
                    f" be above 0 and at most {MAX_SIGMA:g}"
                )

    def _check_population(self) -> None:
        """Raises ValueError if a module has a single perturbation per iteration, so fitness cannot be compared."""
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
                    f" {copies}, so {module_id} has a single perturbation and its fitness cannot be compared; use"
                    f" {2 * copies} or more"
                )


class Shaper(COALA):
    """Opponent shaping by evolution strategies, for policies with a memory of a whole meta-episode.

    An iteration is a generation: each group of environments plays one meta-episode with its own perturbation of the
    parameters, and the parameters take a step towards the perturbations with higher fitness. There is no credit
    assignment to single actions, so all their effects count, including those through the learning of co-players.

    Source: Khan et al., "Scaling opponent shaping to high dimensional games", AAMAS 2024; the estimate is that of
    Salimans et al., "Evolution strategies as a scalable alternative to reinforcement learning", 2017.
    """

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> ShaperConfig:
        """Returns the default configuration."""
        return ShaperConfig(algo_class=cls)
