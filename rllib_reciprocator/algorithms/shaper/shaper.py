"""The Shaper algorithm."""

from __future__ import annotations

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from rllib_reciprocator.algorithms.coala import COALA
from rllib_reciprocator.algorithms.shaper.config import ShaperConfig


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
