"""Intrinsic rewards by name: a row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rllib_reciprocator.utils.settings import IntrinsicSettings

# Column of joint steps that the function of rewards sees where not all steps count, [B, T, N] bool: the steps in which
# each agent with these settings plays, before the end of the episode. Statistics over a batch are taken over these.
LOSS_MASK = "loss_mask"


@dataclass(frozen=True)
class IntrinsicReward:
    """Where the parts of an intrinsic reward are, as ``module:attribute``; imported when they are first used.

    Attributes:
        settings: The class of its settings, an :class:`IntrinsicSettings`.
        rewards: ``(joint, settings) -> [B, T, N]``: the reward of every agent, as if all had these settings.
        tracker: What the env runner asks in every step, if anything (:class:`rllib_reciprocator.engine.StepTracker`):
            ``(game, settings, **others)``, with the settings of each agent that has the reward, else None, and by name
            ``default`` (those of who does not have it), ``modules`` (all RLModules, by id) and ``suffixes`` (of the ids
            of the modules that each agent brought with it) with ``slots`` (which agent it was in its own run),
            ``numbers`` (the pool member of each agent that has the reward) and ``trained`` (``[agent][pool member]``
            bool).
        modules: RLModules that it needs beside the policies, if any: ``(game, settings, gamma) -> {id: RLModuleSpec}``.
        model_settings: What goes into the ``model_config`` of who has it, if anything: ``(game, settings) -> dict``.
        label: How its figures begin in results, if not with its name.
        weight_logged_with: Id of the module among whose figures its weight is, if not its player's.
        learned_by: Names of the algorithms that train its parameters, for error messages; empty if it has none. An
            algorithm trains those that its configuration lists (``BatchedConfig.trained_intrinsic_rewards``).
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
        """One of the parts, imported; None if it has none of that name."""
        path = getattr(self, name)
        if not path:
            return None
        module, _, attribute = path.partition(":")
        return getattr(import_module(module), attribute)

    def settings_class(self) -> type[IntrinsicSettings]:
        """The class of its settings."""
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
    """The names of all intrinsic rewards."""
    return list(_REWARDS)


def intrinsic_reward(name: str) -> IntrinsicReward:
    """The intrinsic reward of that name.

    Args:
        name: Of a registered one, or ``module:attribute`` of an :class:`IntrinsicReward` of your own. It is imported
            where it is used, and so in remote processes too.

    Raises:
        ValueError: If there is none.
    """
    if name in _REWARDS:
        return _REWARDS[name]
    module, colon, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute) if colon else None
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no intrinsic reward {name!r}: it cannot be imported ({error})") from None
    if not isinstance(found, IntrinsicReward):
        known = ", ".join(_REWARDS)
        raise ValueError(f"there is no intrinsic reward {name!r}; there are {known}, and module:attribute of your own")
    return found
