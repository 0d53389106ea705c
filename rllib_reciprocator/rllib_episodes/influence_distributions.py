"""Checks that players report their action distributions, which influence is an expectation over."""

from __future__ import annotations

from collections.abc import Mapping

from ray.rllib.core.rl_module.rl_module import RLModule

from rllib_reciprocator.models.reporting import REPORTING, reports_distribution
from rllib_reciprocator.rllib_episodes.influence import no_distribution


def check_distributions(modules: Mapping[str, RLModule]) -> None:
    """Lets modules act once, so that one that reports no action distribution is known before training starts.

    Args:
        modules: The players' modules, by id.

    Raises:
        ValueError: If one reports none.
    """
    for module_id, module in modules.items():
        unwrapped = module.unwrapped()
        reports = type(unwrapped).__module__.startswith(REPORTING) or reports_distribution(unwrapped, time_axis=True)
        if reports is False:
            raise ValueError(no_distribution(module_id))
