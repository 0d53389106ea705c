"""Advantage Alignment (Duque, Aghajohari et al., ICLR 2025): PPO with transformed advantages."""

from rllib_reciprocator.algorithms.advantage_alignment.advantage_alignment import AdvantageAlignment
from rllib_reciprocator.algorithms.advantage_alignment.config import AdvantageAlignmentConfig

__all__ = ["AdvantageAlignment", "AdvantageAlignmentConfig"]
