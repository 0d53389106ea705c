"""Cooperation between self-interested agents, on RLlib.

``from rllib_reciprocator import ReciprocatorConfig`` is the way in from Python, ``rllib train`` from a shell, and
``reciprocate()`` makes Reciprocators of the agents of any of RLlib's on-policy algorithms.
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
    """Imports what is asked for when it is first asked for, so that importing the package starts nothing of Ray."""
    if name in _FROM:
        return getattr(import_module(_FROM[name]), name)
    raise AttributeError(f"module 'rllib_reciprocator' has no attribute {name!r}")
