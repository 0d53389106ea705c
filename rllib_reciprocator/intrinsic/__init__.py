"""Intrinsic rewards: what agents are moved by beside what the environment pays them, as pure functions of tensors."""

from rllib_reciprocator.intrinsic.reciprocity import (
    REWARDS,
    Estimates,
    ReciprocalRule,
    ReciprocitySettings,
    balance,
    balance_after,
    influence,
    reciprocal_reward,
    scheduled_weight,
)

__all__ = [
    "REWARDS",
    "Estimates",
    "ReciprocalRule",
    "ReciprocitySettings",
    "balance",
    "balance_after",
    "influence",
    "reciprocal_reward",
    "scheduled_weight",
]
