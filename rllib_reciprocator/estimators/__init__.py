"""Influence estimators: RLModules that say how much each agent's action was worth to each agent."""

from rllib_reciprocator.estimators.counterfactual import CounterfactualInfluence
from rllib_reciprocator.estimators.influence_estimator import InfluenceEstimator, Transition
from rllib_reciprocator.estimators.reward_model import RewardModelInfluence
from rllib_reciprocator.estimators.tabular import TabularInfluence
from rllib_reciprocator.estimators.transition_model import TransitionInfluence

__all__ = [
    "CounterfactualInfluence",
    "InfluenceEstimator",
    "RewardModelInfluence",
    "TabularInfluence",
    "Transition",
    "TransitionInfluence",
]
