"""The configuration of Advantage Alignment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override

from rllib_reciprocator.batched.config import BatchedConfig
from rllib_reciprocator.batched.losses import PPO_LOSS

ALIGNED = "advantage_alignment"


class AdvantageAlignmentConfig(BatchedConfig):
    """Players ``advantage_alignment``, and whoever plays with them, in one of the batched games.

    .. code-block:: python

        config = AdvantageAlignmentConfig().environment("ipd_v0").training(alignment_weight=1.0)
        algorithm = config.build_algo()
    """

    algorithms: ClassVar[Mapping[str, str]] = {**BatchedConfig.algorithms, ALIGNED: PPO_LOSS}
    default_player = ALIGNED

    def __init__(self, algo_class: type | None = None) -> None:
        """Sets the defaults: those that learn in the iterated prisoner's dilemma."""
        from rllib_reciprocator.algorithms.advantage_alignment.advantage_alignment import AdvantageAlignment

        super().__init__(algo_class=algo_class or AdvantageAlignment)
        self.alignment_weight = 1.0
        self.num_envs_per_env_runner = 256
        self.lambda_ = 0.95
        self.bootstrap_at_horizon = True

    @override(BatchedConfig)
    def training(self, *, alignment_weight: float = NotProvided, **kwargs: Any) -> AdvantageAlignmentConfig:
        """Sets how players learn; see also :meth:`BatchedConfig.training`.

        Args:
            alignment_weight: The paper's beta: how much the others' advantages count, times what one has had so far.
            **kwargs: Other settings.

        Returns:
            This configuration.
        """
        super().training(**kwargs)
        if alignment_weight is not NotProvided:
            self.alignment_weight = alignment_weight
        return self

    @override(BatchedConfig)
    def get_default_learner_class(self) -> type:
        """The learner that aligns advantages."""
        from rllib_reciprocator.algorithms.advantage_alignment.learner import AdvantageAlignmentLearner

        return AdvantageAlignmentLearner
