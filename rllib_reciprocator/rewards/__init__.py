"""From influence to reciprocal reward, as pure functions of tensors.

Pairs are always ``[influencer, influenced]``: ``influence[.., j, i]`` is what j's action was worth to i, and
``balance[.., j, i]`` is what i has had from j.
"""

from rllib_reciprocator.rewards.balance import balance, balance_after
from rllib_reciprocator.rewards.influence import Estimates, influence
from rllib_reciprocator.rewards.reciprocal import reciprocal_reward, scheduled_weight
from rllib_reciprocator.rewards.rules import REWARDS, ReciprocalRule

__all__ = [
    "REWARDS",
    "Estimates",
    "ReciprocalRule",
    "balance",
    "balance_after",
    "influence",
    "reciprocal_reward",
    "scheduled_weight",
]
