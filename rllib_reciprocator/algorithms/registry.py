"""Registry of algorithm names: those of this package and RLlib's."""

from __future__ import annotations

from importlib import import_module

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.registry import ALGORITHMS
from ray.tune.registry import get_trainable_cls

# BATCHED are the algorithms on the batched engine. OURS also has RLlib's algorithms with support for ``players``.
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
    """Returns all valid values of the ``run`` key, sorted."""
    return sorted({*OURS, *ALGORITHMS})


def algorithm_class(name: str) -> type[Algorithm]:
    """Returns the algorithm class with this name.

    Raises:
        KeyError: If no algorithm has this name.
    """
    if name in OURS:
        return getattr(import_module(OURS[name]), name)
    if name not in ALGORITHMS:
        raise KeyError(name)
    return get_trainable_cls(name)
