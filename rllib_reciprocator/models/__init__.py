"""Policy networks and their action distributions."""

from rllib_reciprocator.models.actor_critic import (
    BALANCE,
    IS_FIRST,
    OBSERVES,
    PREDICTED_BALANCE,
    PREDICTS,
    WHOLE_EPISODES,
    ActorCriticModule,
    bounded,
)
from rllib_reciprocator.models.default_model import DefaultModelModule
from rllib_reciprocator.models.distributions import Deterministic, probabilities

__all__ = [
    "BALANCE",
    "IS_FIRST",
    "OBSERVES",
    "PREDICTED_BALANCE",
    "PREDICTS",
    "WHOLE_EPISODES",
    "ActorCriticModule",
    "DefaultModelModule",
    "Deterministic",
    "bounded",
    "probabilities",
]
