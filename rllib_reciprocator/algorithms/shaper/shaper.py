"""The Shaper algorithm."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override
from typing_extensions import Self

from rllib_reciprocator.algorithms.coala.coala import COALA, COALAConfig

SHAPER_PLAYER = "shaper"


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

    default_player = SHAPER_PLAYER

    def __init__(self, algo_class: type | None = None) -> None:
        """Sets the defaults, which are tuned for the iterated prisoner's dilemma."""
        super().__init__(algo_class=algo_class or Shaper)
        self.sigma: float | list[list[float]] = 0.3
        self.num_envs_per_env_runner = 2048
        self.lr = 0.05

    @override(COALAConfig)
    def training(self, *, sigma: float | list[list[int | float]] = NotProvided, **kwargs: Any) -> Self:
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
