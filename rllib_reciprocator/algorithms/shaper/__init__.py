"""Shaper (Khan et al., AAMAS 2024): opponent shaping of learning co-players, trained by evolution strategies."""

from rllib_reciprocator.algorithms.shaper.config import ShaperConfig
from rllib_reciprocator.algorithms.shaper.shaper import Shaper

__all__ = ["Shaper", "ShaperConfig"]
