"""COALA-PG (Meulemans et al., ICLR 2025): learning-aware policy gradients against co-players that learn."""

from rllib_reciprocator.algorithms.coala.coala import COALA, COALAConfig

__all__ = ["COALA", "COALAConfig"]
