"""The Shaper algorithm."""

from __future__ import annotations

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from rllib_reciprocator.algorithms.coala import COALA
from rllib_reciprocator.algorithms.shaper.config import ShaperConfig


class Shaper(COALA):
    """Agents with a memory of a whole meta-episode, whose parameters follow what perturbations of them get in it.

    An iteration is a generation: each group of copies plays one meta-episode with a perturbation of its own, and the
    parameters take a step towards those that got more. Nobody credits single actions, so that whatever comes of them,
    through learners or not, counts as it should.

    Source: Khan et al., "Scaling opponent shaping to high dimensional games", AAMAS 2024; the estimate is that of
    Salimans et al., "Evolution strategies as a scalable alternative to reinforcement learning", 2017.
    """

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> ShaperConfig:
        """The default configuration."""
        return ShaperConfig(algo_class=cls)
