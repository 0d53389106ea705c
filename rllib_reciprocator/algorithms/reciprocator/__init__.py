"""Reciprocator (Zhou, Hong and Kao, NeurIPS 2024): PPO with the intrinsic reward ``reciprocity``."""

from rllib_reciprocator.algorithms.reciprocator.reciprocator import Reciprocator, ReciprocatorConfig

__all__ = ["Reciprocator", "ReciprocatorConfig"]
