"""Incentives: what agents give each other, the functions that say how much, and models of the recipients."""

from rllib_reciprocator.intrinsic.incentives.settings import (
    INCENTIVES,
    NOISE,
    RECEIVED,
    IncentiveSettings,
    received,
    rewards,
)

__all__ = ["INCENTIVES", "NOISE", "RECEIVED", "IncentiveSettings", "received", "rewards"]
