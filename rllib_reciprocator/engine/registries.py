"""Lookup of kinds of players, intrinsic rewards and player sources by name."""

from __future__ import annotations

from functools import cache
from typing import Any

from rllib_reciprocator import registry
from rllib_reciprocator.engine.context import PlayerKind
from rllib_reciprocator.engine.intrinsic_reward import IntrinsicReward
from rllib_reciprocator.engine.meta_episodes import MetaSettings
from rllib_reciprocator.engine.player_sources import PlayerSource
from rllib_reciprocator.utils.import_paths import import_attribute


@cache
def player_kinds() -> dict[str, PlayerKind]:
    """Returns the kinds of players that the engine trains, by name."""
    return {
        name: PlayerKind(**{key: value for key, value in row.items() if key != "algorithm"})
        for name, row in registry.PLAYER_KINDS.items()
    }


def intrinsic_names() -> list[str]:
    """Returns the names of all registered intrinsic rewards."""
    return list(registry.INTRINSIC_REWARDS)


def intrinsic_reward(name: str) -> type[IntrinsicReward[Any]]:
    """Returns the intrinsic reward of a name.

    Args:
        name: Name of a registered intrinsic reward, or ``module:class`` of a subclass of :class:`IntrinsicReward`. The
            module is imported in every process that uses it, including remote ones.

    Raises:
        ValueError: If there is no intrinsic reward of that name.
    """
    if name in registry.INTRINSIC_REWARDS:
        return import_attribute(registry.INTRINSIC_REWARDS[name])
    try:
        reward = import_attribute(name) if ":" in name else None
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no intrinsic reward {name!r}: it cannot be imported ({error})") from None
    if not (isinstance(reward, type) and issubclass(reward, IntrinsicReward)):
        names = ", ".join(registry.INTRINSIC_REWARDS)
        raise ValueError(f"there is no intrinsic reward {name!r}; use {names} or module:class of a custom one")
    return reward


@cache
def player_source(prefix: str) -> PlayerSource | None:
    """Returns the source of the players ``PREFIX/NAME``; None if there is none."""
    path = registry.PLAYER_SOURCES.get(prefix)
    return None if path is None else import_attribute(path)


def player_source_prefixes() -> list[str]:
    """Returns the prefixes of all player sources."""
    return list(registry.PLAYER_SOURCES)


def player_switches() -> dict[str, str]:
    """Returns the keys of a player's mapping that disable an intrinsic reward with ``false``, with its name."""
    return registry.PLAYER_SWITCHES


def meta_settings_class() -> type[MetaSettings]:
    """Returns the class of the settings in ``meta``."""
    return import_attribute(registry.META_SETTINGS)
