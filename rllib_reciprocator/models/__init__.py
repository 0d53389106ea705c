"""Policy networks and their action distributions."""

from rllib_reciprocator.models.actor_critic import (
    BALANCE,
    EXPLORES,
    GIVEN,
    IS_FIRST,
    LOGITS,
    OBSERVATIONS,
    OBSERVES,
    PREDICTED_BALANCE,
    PREDICTS,
    REMEMBERS,
    WHOLE_EPISODES,
    ActorCriticModule,
    bounded,
)
from rllib_reciprocator.models.default_model import DefaultModelModule
from rllib_reciprocator.models.distributions import Deterministic, all_log_probs, probabilities, with_exploration

__all__ = [
    "BALANCE",
    "EXPLORES",
    "GIVEN",
    "IS_FIRST",
    "LOGITS",
    "OBSERVATIONS",
    "OBSERVES",
    "PREDICTED_BALANCE",
    "PREDICTS",
    "REMEMBERS",
    "WHOLE_EPISODES",
    "ActorCriticModule",
    "DefaultModelModule",
    "Deterministic",
    "all_log_probs",
    "bounded",
    "probabilities",
    "with_exploration",
]
