"""Update rules of policies: PPO, policy gradients and actor-critic."""

from rllib_reciprocator.engine.updates.policy_gradient import ActorCriticRule, PolicyGradientRule
from rllib_reciprocator.engine.updates.ppo import PPORule

__all__ = ["ActorCriticRule", "PPORule", "PolicyGradientRule"]
