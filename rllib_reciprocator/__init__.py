"""Cooperation between self-interested agents, on RLlib.

Use ``from rllib_reciprocator import ReciprocatorConfig`` in Python and ``rllib train`` on the command line.
``reciprocate()`` adds the reciprocal reward to the agents of RLlib's own on-policy algorithms.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rllib_reciprocator.utils.moved_modules import install

if TYPE_CHECKING:
    from rllib_reciprocator.algorithms.reciprocator import Reciprocator, ReciprocatorConfig
    from rllib_reciprocator.rllib_episodes.reciprocate import reciprocate

_FROM = {
    "Reciprocator": "rllib_reciprocator.algorithms.reciprocator",
    "ReciprocatorConfig": "rllib_reciprocator.algorithms.reciprocator",
    "reciprocate": "rllib_reciprocator.rllib_episodes.reciprocate",
}
__all__ = ["Reciprocator", "ReciprocatorConfig", "reciprocate"]

install()


def __getattr__(name: str) -> Any:
    """Imports a public name on first access, so that importing the package does not import Ray."""
    if name in _FROM:
        return getattr(import_module(_FROM[name]), name)
    raise AttributeError(f"module 'rllib_reciprocator' has no attribute {name!r}")
