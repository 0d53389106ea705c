"""Registry of intrinsic rewards by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rllib_reciprocator.utils.import_paths import import_attribute
from rllib_reciprocator.utils.settings import IntrinsicSettings

# Optional column of the batch passed to reward functions, [B, T, N] bool: True in the steps that count in which the
# pool member that plays the agent has these settings. Statistics over the batch use these steps only; without it they
# use all.
LOSS_MASK = "loss_mask"


@dataclass(frozen=True)
class IntrinsicReward:
    """Import paths of the parts of an intrinsic reward, as ``module:attribute``. Parts are imported on first use.

    Attributes:
        settings: Class of its settings, a subclass of :class:`IntrinsicSettings`.
        rewards: Function ``(joint, settings) -> [B, T, N]`` that computes the reward of every agent, as if all agents
            had these settings.
        tracker: Factory ``(game, settings, **others)`` of the :class:`rllib_reciprocator.engine.StepTracker` that the
            env runner calls in every step; empty if it needs none. ``settings`` are those of each agent that has the
            reward, None for the others. Keyword arguments: ``default`` (settings of agents without the reward),
            ``modules`` (all RLModules, by id), ``suffixes`` (per agent, suffix of the ids of the modules that a frozen
            policy loads from its own run), ``slots`` (per agent, its index in the run that trained it), ``numbers``
            (per agent, index of the pool member that has the reward) and ``trained`` (``[agent][pool member]`` bool).
        modules: Function ``(game, settings, gamma) -> {id: RLModuleSpec}`` that returns the RLModules that it needs in
            addition to the policies; empty if it needs none.
        model_settings: Function ``(game, settings) -> dict`` that returns additional entries of the ``model_config`` of
            policies with this reward; empty if there are none.
        label: Prefix of its metrics; empty for its name.
        weight_logged_with: Id of the module under which its weight is logged; empty for the module of the player.
        learned_by: Names of the algorithms that train its parameters, for error messages; empty if it has none. The
            rewards that an algorithm trains are listed in ``BatchedConfig.trained_intrinsic_rewards``.
    """

    settings: str
    rewards: str
    tracker: str = ""
    modules: str = ""
    model_settings: str = ""
    label: str = ""
    weight_logged_with: str = ""
    learned_by: tuple[str, ...] = ()

    def part(self, name: str) -> Callable[..., Any] | None:
        """Imports a part; returns None if the intrinsic reward does not have it."""
        path = getattr(self, name)
        return import_attribute(path) if path else None

    def settings_class(self) -> type[IntrinsicSettings]:
        """Returns the class of its settings."""
        return self.part("settings")  # type: ignore[return-value]


_HERE = "rllib_reciprocator.intrinsic"
_REWARDS = {
    "reciprocity": IntrinsicReward(
        settings=f"{_HERE}.reciprocity.settings:ReciprocitySettings",
        rewards=f"{_HERE}.reciprocity.settings:rewards",
        tracker="rllib_reciprocator.intrinsic.reciprocity.tracker:InfluenceTracker",
        modules="rllib_reciprocator.intrinsic.reciprocity.specs:estimator_specs",
        model_settings="rllib_reciprocator.intrinsic.reciprocity.specs:model_settings",
        label="reciprocal",
        weight_logged_with="influence",
    ),
    "inequity_aversion": IntrinsicReward(
        settings=f"{_HERE}.inequity_aversion:InequityAversionSettings",
        rewards=f"{_HERE}.inequity_aversion:rewards",
        tracker=f"{_HERE}.inequity_aversion:tracker",
    ),
    "social_value_orientation": IntrinsicReward(
        settings=f"{_HERE}.social_value_orientation:SocialValueOrientationSettings",
        rewards=f"{_HERE}.social_value_orientation:rewards",
    ),
    "incentives": IntrinsicReward(
        settings=f"{_HERE}.incentives.settings:IncentiveSettings",
        rewards=f"{_HERE}.incentives.settings:rewards",
        tracker="rllib_reciprocator.intrinsic.incentives.tracker:IncentiveTracker",
        modules="rllib_reciprocator.intrinsic.incentives.specs:incentive_specs",
        model_settings="rllib_reciprocator.intrinsic.incentives.specs:model_settings",
        label="incentive_cost",
        learned_by=("LIO",),
    ),
    "shared_reward": IntrinsicReward(
        settings=f"{_HERE}.shared_reward:SharedRewardSettings",
        rewards=f"{_HERE}.shared_reward:rewards",
    ),
}


def intrinsic_names() -> list[str]:
    """Returns the names of all registered intrinsic rewards."""
    return list(_REWARDS)


def intrinsic_reward(name: str) -> IntrinsicReward:
    """Returns the intrinsic reward of a name.

    Args:
        name: Name of a registered intrinsic reward, or ``module:attribute`` of a custom :class:`IntrinsicReward`. The
            module is imported in every process that uses it, including remote ones.

    Raises:
        ValueError: If there is no intrinsic reward of that name.
    """
    if name in _REWARDS:
        return _REWARDS[name]
    try:
        reward = import_attribute(name) if ":" in name else None
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no intrinsic reward {name!r}: it cannot be imported ({error})") from None
    if not isinstance(reward, IntrinsicReward):
        names = ", ".join(_REWARDS)
        raise ValueError(f"there is no intrinsic reward {name!r}; use {names} or module:attribute of a custom one")
    return reward
