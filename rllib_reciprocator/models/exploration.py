"""Disables the exploration of modules that are not trained."""

from __future__ import annotations

from copy import copy

from ray.rllib.algorithms.dqn.default_dqn_rl_module import DefaultDQNRLModule
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_reciprocator.models.actor_critic import EXPLORES


def without_exploration(spec: RLModuleSpec) -> RLModuleSpec:
    """Returns the spec of the same module without epsilon exploration.

    Actions are then sampled from the policy itself. Weights of a module that explored can be loaded: the probability of
    exploring, which is stored among them, is ignored.

    Args:
        spec: Spec of a frozen or an evaluated module.
    """
    settings = spec.model_config
    if not isinstance(settings, dict):
        return spec
    disabled_settings: dict[str, bool | float] = {EXPLORES: False}
    if isinstance(spec.module_class, type) and issubclass(spec.module_class, DefaultDQNRLModule):
        disabled_settings["epsilon"] = 0.0
    spec = copy(spec)
    spec.model_config = {name: disabled_settings.get(name, value) for name, value in settings.items()}
    return spec
