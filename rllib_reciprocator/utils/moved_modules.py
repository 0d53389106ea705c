"""Aliases of modules that have moved, so that their old names still work in imports and checkpoints.

Rows in packages of version 0.1.0 that no longer exist (``rewards``, ``rollout``, ``connectors``, ``callbacks``) work in
checkpoints only, where no package is imported first.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = "rllib_reciprocator"
# Old name -> new name, without the package. An entry for a package applies to all its modules without an entry.
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
    **{
        f"algorithms.{name}.config": f"algorithms.{name}.{name}"
        for name in ("advantage_alignment", "coala", "lio", "reciprocator", "shaper")
    },
    "batched": "engine",
    "batched.rows": "engine.minibatches",
    "checkpoints": "utils.checkpoints",
    "cli.examples": "cli.tuned_examples",
    "distributed": "utils.distributed",
    "divergence": "utils.divergence",
    "environments": "rllib_episodes.environments",
    "episodes": "rllib_episodes",
    "episodes.additions": "rllib_episodes.config_utils",
    "episodes.known_environment": "rllib_episodes.env_spec",
    "episodes.own_discounts": "rllib_episodes.per_module_gae",
    "evaluation.film": "evaluation.video",
    "exact_restore": "utils.exact_restore",
    "experiments.csv_text": "results.csv_text",
    "experiments.errors": "utils.errors",
    "experiments.figures": "results.metrics",
    "experiments.intervals": "results.intervals",
    "experiments.json_text": "results.json_text",
    "experiments.metrics": "results.metric_checks",
    "experiments.printing": "results.printing",
    "experiments.results": "results.parsing",
    "fixed_modules": "utils.fixed_modules",
    "incentives": "intrinsic.incentives",
    "influence": "intrinsic.reciprocity.estimators",
    "influence.learner": "intrinsic.reciprocity.estimator_rule",
    "influence.metrics": "intrinsic.reciprocity.metrics",
    "influence.specs": "intrinsic.reciprocity.specs",
    "influence.tracker": "intrinsic.reciprocity.tracker",
    "lost_learners": "utils.fault_tolerance",
    "metric_names": "utils.metric_names",
    "players.learning_settings": "engine.online_learner_settings",
    "players.players": "engine.player_mapping",
    "quantiles": "utils.quantiles",
    "ray_internals": "utils.ray_internals",
    "reports.runs": "results.trial_folders",
    "restricted_pickle": "utils.restricted_pickle",
    "softmax": "utils.softmax",
    "typed_settings": "utils.settings",
}


def new_name(module: str) -> str | None:
    """Returns the current name of a module of this package; None if it has not moved.

    Args:
        module: Full name of the module, including ``rllib_reciprocator.``.
    """
    package, _, rest = module.partition(".")
    if package != _PACKAGE:
        return None
    parts = rest.split(".")
    for length in range(len(parts), 0, -1):
        current_name = MOVED.get(".".join(parts[:length]))
        if current_name is not None:
            return ".".join([_PACKAGE, current_name, *parts[length:]])
    return None


class _AliasLoader(Loader):
    """Loader that registers the same module object under its old name, so that its classes are identical."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Returns None, so that Python creates an empty module, which :meth:`exec_module` replaces."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Imports the module by its new name and registers it under its old name."""
        warnings.warn(f"{module.__name__} has moved to {self.name}; use the new name", DeprecationWarning, stacklevel=2)
        sys.modules[module.__name__] = import_module(self.name)


class MovedModuleFinder(MetaPathFinder):
    """Finder of modules by their old names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec of a module that has moved; None for all other modules."""
        name = new_name(fullname)
        return None if name is None else ModuleSpec(fullname, _AliasLoader(name))


def install() -> None:
    """Registers the finder, so that modules can be imported by their old names."""
    if not any(isinstance(finder, MovedModuleFinder) for finder in sys.meta_path):
        # The finder comes before Python's finders, which would load submodules of an alias a second time.
        sys.meta_path.insert(0, MovedModuleFinder())
