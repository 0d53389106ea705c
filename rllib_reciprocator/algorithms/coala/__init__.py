"""COALA-PG (Meulemans et al., ICLR 2025): policy gradients of agents who know that others learn from what they do."""

from rllib_reciprocator.algorithms.coala.coala import COALA
from rllib_reciprocator.algorithms.coala.config import COALAConfig

__all__ = ["COALA", "COALAConfig"]
