"""Learning to Incentivize Others (Yang et al., NeurIPS 2020): agents that learn incentives for their co-players."""

from rllib_reciprocator.algorithms.lio.lio import LIO, LIOConfig

__all__ = ["LIO", "LIOConfig"]
