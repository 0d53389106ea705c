"""Advantage Alignment (Duque, Aghajohari et al., ICLR 2025): one transformation of the advantages of PPO."""

from rllib_reciprocator.algorithms.advantage_alignment.advantage_alignment import AdvantageAlignment
from rllib_reciprocator.algorithms.advantage_alignment.config import AdvantageAlignmentConfig

__all__ = ["AdvantageAlignment", "AdvantageAlignmentConfig"]
