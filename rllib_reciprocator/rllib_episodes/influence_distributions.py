"""Check that players report their action distributions, over which counterfactuals are expectations."""

from __future__ import annotations

from collections.abc import Mapping

from ray.rllib.core.rl_module.rl_module import RLModule

from rllib_reciprocator.models.reporting import REPORTING, reports_distribution
from rllib_reciprocator.rllib_episodes.influence import no_distribution


def check_distributions(modules: Mapping[str, RLModule]) -> None:
    """Checks before training that all modules report their action distributions, with a forward pass if needed.

    Args:
        modules: The players' modules, by module id.

    Raises:
        ValueError: If a module does not report its action distribution.
    """
    for module_id, module in modules.items():
        inner_module = module.unwrapped()
        reports = type(inner_module).__module__.startswith(REPORTING) or reports_distribution(
            inner_module, time_axis=True
        )
        if reports is False:
            raise ValueError(no_distribution(module_id))
