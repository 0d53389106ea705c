"""Modules that moved: their old names go on working, in imports and in checkpoints."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = "rllib_reciprocator"
# Old name -> new name, without the package. A package stands for all modules in it that have no row of their own.
MOVED = {
    # Version 0.1.0
    "algorithms.reciprocate": "rllib_episodes.algorithms",
    "algorithms.reciprocator.settings": "intrinsic.reciprocity.settings",
    "callbacks.episode_influence": "rllib_episodes.influence_callback",
    "callbacks.episode_outcomes": "rllib_episodes.outcomes_callback",
    "connectors.episode_influence": "rllib_episodes.influence",
    "connectors.joint_steps": "rllib_episodes.joint_steps",
    "estimators": "intrinsic.reciprocity.estimators",
    "rewards.rules": "intrinsic.reciprocity.rules",
    "rollout.batched_env_runner": "engine.env_runner",
    # Version 0.2.0
    "batched": "engine",
    "batched.rows": "engine.minibatches",
    "checkpoints": "utils.checkpoints",
    "distributed": "utils.distributed",
    "divergence": "utils.divergence",
    "environments": "rllib_episodes.environments",
    "episodes": "rllib_episodes",
    "episodes.additions": "rllib_episodes.config_utils",
    "episodes.known_environment": "rllib_episodes.env_spec",
    "episodes.own_discounts": "rllib_episodes.per_module_gae",
    "exact_restore": "utils.exact_restore",
    "fixed_modules": "utils.fixed_modules",
    "incentives": "intrinsic.incentives",
    "influence": "intrinsic.reciprocity.estimators",
    "influence.learner": "intrinsic.reciprocity.learner",
    "influence.metrics": "intrinsic.reciprocity.metrics",
    "influence.specs": "intrinsic.reciprocity.specs",
    "influence.tracker": "intrinsic.reciprocity.tracker",
    "lost_learners": "utils.fault_tolerance",
    "metric_names": "utils.metric_names",
    "quantiles": "utils.quantiles",
    "ray_internals": "utils.ray_internals",
    "restricted_pickle": "utils.restricted_pickle",
    "softmax": "utils.softmax",
    "typed_settings": "utils.settings",
}


def new_name(module: str) -> str | None:
    """Returns the name that a module of this package has now; None if it did not move.

    Args:
        module: Its name, ``rllib_reciprocator.`` included.
    """
    package, _, rest = module.partition(".")
    if package != _PACKAGE:
        return None
    parts = rest.split(".")
    for length in range(len(parts), 0, -1):
        moved = MOVED.get(".".join(parts[:length]))
        if moved is not None:
            return ".".join([_PACKAGE, moved, *parts[length:]])
    return None


class _AliasLoader(Loader):
    """Loads a module under an old name: the same module object, so that its classes are the same."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Returns None: Python makes an empty module, which :meth:`exec_module` replaces."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Registers the module that moved under its old name."""
        warnings.warn(f"{module.__name__} is {self.name} now", DeprecationWarning, stacklevel=2)
        sys.modules[module.__name__] = import_module(self.name)


class MovedModuleFinder(MetaPathFinder):
    """Finds modules by their old names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns how to load a module that moved; None for all others."""
        name = new_name(fullname)
        return None if name is None else ModuleSpec(fullname, _AliasLoader(name))


def install() -> None:
    """Lets Python import modules by their old names."""
    if not any(isinstance(finder, MovedModuleFinder) for finder in sys.meta_path):
        # Before Python's own finders, which would load modules of an alias a second time, from its new folder.
        sys.meta_path.insert(0, MovedModuleFinder())
