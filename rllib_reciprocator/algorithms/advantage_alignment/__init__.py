"""Advantage Alignment (Duque, Aghajohari et al., ICLR 2025): PPO with transformed advantages."""

from rllib_reciprocator.algorithms.advantage_alignment.advantage_alignment import (
    AdvantageAlignment,
    AdvantageAlignmentConfig,
)

__all__ = ["AdvantageAlignment", "AdvantageAlignmentConfig"]
