"""Policy networks and their action distributions."""

from rllib_reciprocator.models.distributions import Deterministic
from rllib_reciprocator.models.feed_forward import ACTIVATIONS, BALANCE, FeedForwardModule

__all__ = ["ACTIVATIONS", "BALANCE", "Deterministic", "FeedForwardModule"]
