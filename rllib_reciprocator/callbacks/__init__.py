"""RLlib callbacks."""

from rllib_reciprocator.callbacks.social_metrics import SocialMetricsCallback

__all__ = ["SocialMetricsCallback"]
