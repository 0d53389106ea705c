"""Reciprocity: rules of the reciprocal reward, settings, influence estimators and the influence balance."""

from rllib_reciprocator.intrinsic.reciprocity.rules import (
    REWARDS,
    Estimates,
    ReciprocalRule,
    balance,
    balance_after,
    influence,
    reciprocal_reward,
)
from rllib_reciprocator.intrinsic.reciprocity.settings import (
    ReciprocitySettings,
    WeightSchedule,
    rewards,
    scheduled_weight,
)

__all__ = [
    "REWARDS",
    "Estimates",
    "ReciprocalRule",
    "ReciprocitySettings",
    "WeightSchedule",
    "balance",
    "balance_after",
    "influence",
    "reciprocal_reward",
    "rewards",
    "scheduled_weight",
]
