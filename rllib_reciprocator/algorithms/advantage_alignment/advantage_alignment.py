"""The Advantage Alignment algorithm."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override
from typing_extensions import Self

from rllib_reciprocator.engine.algorithm import BatchedAlgorithm
from rllib_reciprocator.engine.config import BatchedConfig


class AdvantageAlignmentConfig(BatchedConfig):
    """Configuration of :class:`AdvantageAlignment`, for ``advantage_alignment`` players and those of other algorithms.

    .. code-block:: python

        config = AdvantageAlignmentConfig().environment("ipd_v0").training(alignment_weight=1.0)
        algorithm = config.build_algo()
    """

    default_player = "advantage_alignment"

    def __init__(self, algo_class: type | None = None) -> None:
        """Sets the defaults, which are tuned for the iterated prisoner's dilemma."""
        super().__init__(algo_class=algo_class or AdvantageAlignment)
        self.alignment_weight = 1.0
        self.num_envs_per_env_runner = 256
        self.lambda_ = 0.95
        self.bootstrap_at_horizon = True

    @override(BatchedConfig)
    def training(self, *, alignment_weight: float = NotProvided, **kwargs: Any) -> Self:
        """Sets the training options; see also :meth:`BatchedConfig.training`.

        Args:
            alignment_weight: Weight of the alignment term in advantages (the paper's beta).
            **kwargs: Other settings.

        Returns:
            This configuration.
        """
        super().training(**kwargs)
        if alignment_weight is not NotProvided:
            self.alignment_weight = alignment_weight
        return self


class AdvantageAlignment(BatchedAlgorithm):
    """PPO with an additional advantage term: past TD errors of the agent times present advantages of co-players.

    Source: Duque, Aghajohari et al., "Advantage Alignment Algorithms", ICLR 2025.
    """

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> AdvantageAlignmentConfig:
        """Returns the default configuration."""
        return AdvantageAlignmentConfig(algo_class=cls)
