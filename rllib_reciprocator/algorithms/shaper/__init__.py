"""Shaper (Khan et al., AAMAS 2024): opponent shaping of learning co-players, trained by evolution strategies."""

from rllib_reciprocator.algorithms.shaper.shaper import Shaper, ShaperConfig

__all__ = ["Shaper", "ShaperConfig"]
