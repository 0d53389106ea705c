"""Policy networks and their action distributions."""

from rllib_reciprocator.models.actor_critic import (
    BALANCE,
    OBSERVES,
    PREDICTED_BALANCE,
    PREDICTS,
    ActorCriticModule,
    bounded,
)
from rllib_reciprocator.models.default_model import DefaultModelModule
from rllib_reciprocator.models.distributions import Deterministic, probabilities

__all__ = [
    "BALANCE",
    "OBSERVES",
    "PREDICTED_BALANCE",
    "PREDICTS",
    "ActorCriticModule",
    "DefaultModelModule",
    "Deterministic",
    "bounded",
    "probabilities",
]
