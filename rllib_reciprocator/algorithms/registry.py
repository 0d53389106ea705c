"""Registry of algorithm names: those of this package and RLlib's."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.registry import ALGORITHMS
from ray.tune.error import TuneError
from ray.tune.registry import get_trainable_cls

from rllib_reciprocator.registry import BATCHED_ALGORITHMS
from rllib_reciprocator.utils.import_paths import import_attribute

# BATCHED are the algorithms on the batched engine. OURS also has RLlib's algorithms with support for ``players``.
BATCHED = BATCHED_ALGORITHMS
OURS = {
    **BATCHED,
    **{name: f"rllib_reciprocator.rllib_episodes.algorithms:{name}" for name in ("PPO", "APPO", "IMPALA")},
}


def algorithm_names() -> list[str]:
    """Returns the names of this package's and RLlib's algorithms, sorted."""
    return sorted({*OURS, *ALGORITHMS})


def algorithm_class(name: str) -> type[Algorithm]:
    """Returns the algorithm class with this name.

    Args:
        name: Name of an algorithm of this package or of RLlib, or a name registered with ``ray.tune``, or
            ``MODULE:CLASS`` for a class from anywhere on the import path.

    Raises:
        KeyError: If no algorithm has this name.
        ValueError: If ``MODULE:CLASS`` cannot be imported or is not an algorithm.
    """
    if name in OURS:
        return import_attribute(OURS[name])
    if ":" in name:
        return _imported_class(name)
    try:
        algorithm = get_trainable_cls(name)
    except (TuneError, ValueError):
        raise KeyError(name) from None
    return _checked_class(name, algorithm)


def _imported_class(path: str) -> type[Algorithm]:
    """Returns the algorithm class at ``MODULE:CLASS``."""
    try:
        algorithm = import_attribute(path)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{path!r} cannot be imported ({error})") from None
    return _checked_class(path, algorithm)


def _checked_class(name: str, algorithm: Any) -> type[Algorithm]:
    """Returns a class if it is an algorithm; raises ValueError otherwise."""
    if not (isinstance(algorithm, type) and issubclass(algorithm, Algorithm)):
        raise ValueError(f"{name!r} is not a subclass of ray.rllib.algorithms.algorithm.Algorithm")
    return algorithm
