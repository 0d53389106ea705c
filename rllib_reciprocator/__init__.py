"""Cooperation between self-interested agents, on RLlib.

Use ``from rllib_reciprocator import ReciprocatorConfig`` in Python and ``rllib train`` on the command line.
``reciprocate()`` adds the reciprocal reward to the agents of RLlib's own on-policy algorithms, and ``open_evaluator()``
plays episodes with the policies of a checkpoint.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rllib_reciprocator.utils.moved_modules import install

if TYPE_CHECKING:
    from rllib_reciprocator.algorithms.advantage_alignment import AdvantageAlignment, AdvantageAlignmentConfig
    from rllib_reciprocator.algorithms.coala import COALA, COALAConfig
    from rllib_reciprocator.algorithms.lio import LIO, LIOConfig
    from rllib_reciprocator.algorithms.reciprocator import Reciprocator, ReciprocatorConfig
    from rllib_reciprocator.algorithms.shaper import Shaper, ShaperConfig
    from rllib_reciprocator.evaluation import open_evaluator
    from rllib_reciprocator.rllib_episodes.reciprocate import reciprocate

__all__ = [
    "COALA",
    "LIO",
    "AdvantageAlignment",
    "AdvantageAlignmentConfig",
    "COALAConfig",
    "LIOConfig",
    "Reciprocator",
    "ReciprocatorConfig",
    "Shaper",
    "ShaperConfig",
    "open_evaluator",
    "reciprocate",
]
_ALGORITHMS = "rllib_reciprocator.algorithms"
_MODULES = {
    "AdvantageAlignment": f"{_ALGORITHMS}.advantage_alignment",
    "AdvantageAlignmentConfig": f"{_ALGORITHMS}.advantage_alignment",
    "COALA": f"{_ALGORITHMS}.coala",
    "COALAConfig": f"{_ALGORITHMS}.coala",
    "LIO": f"{_ALGORITHMS}.lio",
    "LIOConfig": f"{_ALGORITHMS}.lio",
    "Reciprocator": f"{_ALGORITHMS}.reciprocator",
    "ReciprocatorConfig": f"{_ALGORITHMS}.reciprocator",
    "Shaper": f"{_ALGORITHMS}.shaper",
    "ShaperConfig": f"{_ALGORITHMS}.shaper",
    "open_evaluator": "rllib_reciprocator.evaluation",
    "reciprocate": "rllib_reciprocator.rllib_episodes.reciprocate",
}

install()


def __getattr__(name: str) -> Any:
    """Imports a public name on first access, so that importing the package does not import Ray."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'rllib_reciprocator' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Returns all public names, for completion."""
    return sorted({*globals(), *__all__})
