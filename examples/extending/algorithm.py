"""An algorithm: PPO players whose advantages are averaged with those of co-players of the same kind."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from ray.rllib.algorithms.algorithm_config import NotProvided

from rllib_reciprocator.engine import AdvantageStep, BatchedAlgorithm, BatchedConfig, PlayerKind, RolloutBatch

PLAYER = "equal_shares"


class MeanAdvantage(AdvantageStep):
    """Mixes the advantages of ``equal_shares`` players with their mean."""

    def __call__(self, batch: RolloutBatch) -> None:
        """Changes advantages, ``[B, T, N]``, of the agents that have this step."""
        share, has_step = self.config.share, self.context.mask(batch).where(self.flags, batch.advantages)
        total = (batch.advantages * has_step).sum(-1, keepdim=True)
        mean = total / has_step.sum(-1, keepdim=True).clamp(min=1)
        mixed = (1.0 - share) * batch.advantages + share * mean
        batch.advantages = torch.where(has_step, mixed, batch.advantages)


class EqualSharesConfig(BatchedConfig):
    """Configuration of :class:`EqualShares`."""

    default_player = PLAYER
    extra_player_kinds: ClassVar = {PLAYER: PlayerKind(advantage_steps=(f"{__name__}:MeanAdvantage",))}

    def __init__(self, algo_class: type | None = None) -> None:
        """Sets the defaults."""
        super().__init__(algo_class=algo_class or EqualShares)
        self.share = 0.5

    def training(self, *, share: float = NotProvided, **kwargs: Any) -> EqualSharesConfig:
        """Sets the training settings.

        Args:
            share: Weight of the mean advantage, from 0 to 1.
            **kwargs: Settings of all algorithms.
        """
        super().training(**kwargs)
        if share is not NotProvided:
            self.share = share
        return self


class EqualShares(BatchedAlgorithm):
    """PPO on advantages that agents share."""

    @classmethod
    def get_default_config(cls) -> EqualSharesConfig:
        """Returns the default configuration."""
        return EqualSharesConfig(algo_class=cls)
