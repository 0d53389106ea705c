"""Influence estimators: RLModules that say how much each agent's action was worth to each agent."""

from rllib_reciprocator.influence.counterfactual import CounterfactualInfluence
from rllib_reciprocator.influence.influence_estimator import Influence, InfluenceEstimator, Transition
from rllib_reciprocator.influence.mixed_reward_model import MixedRewardModelInfluence
from rllib_reciprocator.influence.own_view import OwnViewInfluence
from rllib_reciprocator.influence.reward_model import RewardModelInfluence
from rllib_reciprocator.influence.tabular import TabularInfluence
from rllib_reciprocator.influence.transition_model import TransitionInfluence

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
