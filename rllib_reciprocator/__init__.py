"""Cooperation between self-interested agents, on RLlib.

Use ``from rllib_reciprocator import ReciprocatorConfig`` in Python and ``rllib train`` on the command line.
``reciprocate()`` adds the reciprocal reward to the agents of RLlib's own on-policy algorithms, and ``open_evaluator()``
plays episodes with the policies of a checkpoint.
"""

from typing import TYPE_CHECKING, Any

from rllib_reciprocator.registry import BATCHED_ALGORITHMS
from rllib_reciprocator.utils.import_paths import import_attribute
from rllib_reciprocator.utils.moved_modules import install

if TYPE_CHECKING:
    from rllib_reciprocator.algorithms.advantage_alignment import AdvantageAlignment, AdvantageAlignmentConfig
    from rllib_reciprocator.algorithms.coala import COALA, COALAConfig
    from rllib_reciprocator.algorithms.lio import LIO, LIOConfig
    from rllib_reciprocator.algorithms.loqa import LOQA, LOQAConfig
    from rllib_reciprocator.algorithms.reciprocator import Reciprocator, ReciprocatorConfig
    from rllib_reciprocator.algorithms.shaper import Shaper, ShaperConfig
    from rllib_reciprocator.evaluation import open_evaluator
    from rllib_reciprocator.rllib_episodes.reciprocate import reciprocate

_PATHS = {
    **BATCHED_ALGORITHMS,
    **{f"{name}Config": f"{path}Config" for name, path in BATCHED_ALGORITHMS.items()},
    "open_evaluator": "rllib_reciprocator.evaluation:open_evaluator",
    "reciprocate": "rllib_reciprocator.rllib_episodes.reciprocate:reciprocate",
}
__all__ = sorted(_PATHS)

install()


def __getattr__(name: str) -> Any:
    """Imports a public name on first access, so that importing the package does not import Ray."""
    if name in _PATHS:
        return import_attribute(_PATHS[name])
    raise AttributeError(f"module 'rllib_reciprocator' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Returns all public names, for completion."""
    return sorted({*globals(), *__all__})
