"""Reciprocator (Zhou, Hong and Kao, NeurIPS 2024)."""

from rllib_reciprocator.algorithms.reciprocator.config import ReciprocatorConfig
from rllib_reciprocator.algorithms.reciprocator.learner import ReciprocatorLearner
from rllib_reciprocator.algorithms.reciprocator.reciprocator import Reciprocator

__all__ = ["Reciprocator", "ReciprocatorConfig", "ReciprocatorLearner"]
