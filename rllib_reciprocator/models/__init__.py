"""Policy networks and their action distributions."""

from rllib_reciprocator.models.feed_forward import ACTIVATIONS, BALANCE, FeedForwardModule

__all__ = ["ACTIVATIONS", "BALANCE", "FeedForwardModule"]
