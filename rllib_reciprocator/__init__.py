"""Cooperation between self-interested agents, on RLlib.

``from rllib_reciprocator import ReciprocatorConfig`` is the way in from Python, ``rllib train`` from a shell.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rllib_reciprocator.algorithms.reciprocator import Reciprocator, ReciprocatorConfig

__all__ = ["Reciprocator", "ReciprocatorConfig"]


def __getattr__(name: str) -> Any:
    """Imports the algorithm when it is first asked for, so that importing the package starts nothing of Ray."""
    if name in __all__:
        return getattr(import_module("rllib_reciprocator.algorithms.reciprocator"), name)
    raise AttributeError(f"module 'rllib_reciprocator' has no attribute {name!r}")
