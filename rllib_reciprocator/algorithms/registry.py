"""Algorithms by name: ours and RLlib's."""

from __future__ import annotations

from importlib import import_module

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.registry import ALGORITHMS
from ray.tune.registry import get_trainable_cls

# Those on the batched engine, and those of RLlib's that take players.
BATCHED = {
    "AdvantageAlignment": "rllib_reciprocator.algorithms.advantage_alignment",
    "COALA": "rllib_reciprocator.algorithms.coala",
    "LIO": "rllib_reciprocator.algorithms.lio",
    "Reciprocator": "rllib_reciprocator.algorithms.reciprocator",
    "Shaper": "rllib_reciprocator.algorithms.shaper",
}
OURS = {
    **BATCHED,
    **dict.fromkeys(("PPO", "APPO", "IMPALA"), "rllib_reciprocator.rllib_episodes.algorithms"),
}


def algorithm_names() -> list[str]:
    """All names that a ``run`` key may have."""
    return sorted({*OURS, *ALGORITHMS})


def algorithm_class(name: str) -> type[Algorithm]:
    """The algorithm of that name.

    Raises:
        KeyError: If there is none.
    """
    if name in OURS:
        return getattr(import_module(OURS[name]), name)
    if name not in ALGORITHMS:
        raise KeyError(name)
    return get_trainable_cls(name)
