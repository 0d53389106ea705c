"""Settings of reciprocity that are supported on RLlib's episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig

from rllib_reciprocator.intrinsic.reciprocity import ReciprocitySettings
from rllib_reciprocator.intrinsic.reciprocity.estimators import MixedRewardModelInfluence
from rllib_reciprocator.intrinsic.reciprocity.estimators.reward_model import MODELLED
from rllib_reciprocator.intrinsic.reciprocity.specs import uniform_share
from social_dilemmas.registry import did_you_mean

SUPPORTED = (PPOConfig, APPOConfig, IMPALAConfig)
# Settings of reciprocity() that are supported on RLlib's episodes. The others belong to estimators that need the
# batched engine.
SETTINGS = frozenset(
    {
        "reward",
        "weight",
        "balance_decay",
        "observe_balance",
        "balance_scale",
        "influence",
        "counterfactual",
        "uniform_share",
        "estimator_hiddens",
        "estimator_lr",
        "estimator_epochs",
        "estimator_minibatch_size",
        "tau",
        "buffer_iterations",
        "update_period_iters",
    }
)


def episode_settings(config: AlgorithmConfig, settings: Mapping[str, Any]) -> ReciprocitySettings:
    """Validates the settings of reciprocity for an RLlib algorithm.

    Args:
        config: The config of the algorithm.
        settings: The settings, by name.

    Returns:
        The typed settings.

    Raises:
        ValueError: If the algorithm or a setting is not supported.
    """
    if hasattr(config, "player_mapping"):
        name = config.algo_class.__name__
        raise ValueError(f"reciprocate: {name} supports reciprocity itself; set players and reciprocity in its config")
    if not isinstance(config, SUPPORTED):
        names = ", ".join(config_class.__name__.removesuffix("Config") for config_class in SUPPORTED)
        raise ValueError(
            f"reciprocate: {config.algo_class.__name__} is not supported, since influence in a replay buffer would be"
            f" outdated; use one of {names}"
        )
    if not (config.enable_rl_module_and_learner and config.enable_env_runner_and_connector_v2):
        raise ValueError("reciprocate: requires RLlib's new API stack; enable it with config.api_stack()")
    if config.num_aggregator_actors_per_learner:
        raise ValueError("num_aggregator_actors_per_learner: aggregator actors do not support reciprocity; set it to 0")
    for name in settings:
        if name not in SETTINGS:
            raise ValueError(
                f"reciprocity.{name}: not supported by {config.algo_class.__name__}{did_you_mean(name, SETTINGS)}"
            )
    typed = ReciprocitySettings.model_validate(settings)
    if typed.influence not in ("auto", "reward"):
        raise ValueError(f"reciprocity.influence: {typed.influence} requires run: Reciprocator; set it to reward")
    if typed.counterfactual == MODELLED:
        raise ValueError("reciprocity.counterfactual: modelled requires run: Reciprocator; set it to policy or uniform")
    uniform_share(MixedRewardModelInfluence, typed)  # raises ValueError if the estimator does not support it
    return typed
