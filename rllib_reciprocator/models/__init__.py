"""Policy networks and their action distributions."""

from rllib_reciprocator.models.actor_critic import BALANCE, ActorCriticModule
from rllib_reciprocator.models.distributions import Deterministic

__all__ = ["BALANCE", "ActorCriticModule", "Deterministic"]
