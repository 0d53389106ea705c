"""Incentives that agents give each other: settings, incentive functions and models of other agents' policies."""

from rllib_reciprocator.intrinsic.incentives.settings import (
    GIVEN,
    INCENTIVES,
    NOISE,
    RECEIVED,
    IncentiveSettings,
    received,
    rewards,
)

__all__ = ["GIVEN", "INCENTIVES", "NOISE", "RECEIVED", "IncentiveSettings", "received", "rewards"]
