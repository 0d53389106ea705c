"""Policy networks and their action distributions."""

from rllib_reciprocator.models.actor_critic import (
    EXPLORES,
    IS_FIRST,
    LOGITS,
    OBSERVATIONS,
    PREDICTIONS,
    REMEMBERS,
    WHOLE_EPISODES,
    ActorCriticModule,
)
from rllib_reciprocator.models.default_model import DefaultModelModule
from rllib_reciprocator.models.distributions import Deterministic, all_log_probs, probabilities, with_exploration
from rllib_reciprocator.models.policy_inputs import ACTS_WITH, POLICY_INPUTS, PolicyInput, policy_inputs

__all__ = [
    "ACTS_WITH",
    "EXPLORES",
    "IS_FIRST",
    "LOGITS",
    "OBSERVATIONS",
    "POLICY_INPUTS",
    "PREDICTIONS",
    "REMEMBERS",
    "WHOLE_EPISODES",
    "ActorCriticModule",
    "DefaultModelModule",
    "Deterministic",
    "PolicyInput",
    "all_log_probs",
    "policy_inputs",
    "probabilities",
    "with_exploration",
]
