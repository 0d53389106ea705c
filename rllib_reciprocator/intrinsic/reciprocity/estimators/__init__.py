"""Influence estimators: RLModules that estimate the effect of each agent's action on each agent's value."""

from rllib_reciprocator.intrinsic.reciprocity.estimators.counterfactual import CounterfactualInfluence
from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import (
    Influence,
    InfluenceEstimator,
    Transition,
)
from rllib_reciprocator.intrinsic.reciprocity.estimators.mixed_reward_model import MixedRewardModelInfluence
from rllib_reciprocator.intrinsic.reciprocity.estimators.own_view import OwnViewInfluence
from rllib_reciprocator.intrinsic.reciprocity.estimators.reward_model import RewardModelInfluence
from rllib_reciprocator.intrinsic.reciprocity.estimators.tabular import TabularInfluence
from rllib_reciprocator.intrinsic.reciprocity.estimators.transition_model import TransitionInfluence

__all__ = [
    "CounterfactualInfluence",
    "Influence",
    "InfluenceEstimator",
    "MixedRewardModelInfluence",
    "OwnViewInfluence",
    "RewardModelInfluence",
    "TabularInfluence",
    "Transition",
    "TransitionInfluence",
]
