"""Checks that players report their action distributions, which influence is an expectation over."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import tree
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule

from rllib_reciprocator.episodes.influence import no_distribution

# Default modules of RLlib and of this package report it.
_REPORTING = ("ray.rllib.algorithms.", "rllib_reciprocator.")


def check_distributions(modules: Mapping[str, RLModule]) -> None:
    """Lets modules act once, so that one that reports no action distribution is known before training starts.

    Args:
        modules: The players' modules, by id.

    Raises:
        ValueError: If one reports none.
    """
    for module_id, module in modules.items():
        unwrapped = module.unwrapped()
        if not type(unwrapped).__module__.startswith(_REPORTING) and _reports_distribution(unwrapped) is False:
            raise ValueError(no_distribution(module_id))


@torch.no_grad()
def _reports_distribution(module: RLModule) -> bool | None:
    """Returns whether a module's output holds the inputs of its action distribution.

    None if it cannot act on a sample of its observation space, which may be wider than what it is shown; the first
    step of the run then tells.
    """
    space = copy.deepcopy(module.observation_space)
    space.seed(0)
    stateful = module.is_stateful()
    # RLlib adds an axis of time for modules with a state.
    axes = (None, None) if stateful else (None,)
    parameters = module.parameters() if isinstance(module, torch.nn.Module) else ()
    device = next((parameter.device for parameter in parameters), torch.device("cpu"))

    def batch_of_one(value: Any, *, axes: tuple[None, ...]) -> torch.Tensor:
        return torch.as_tensor(np.asarray(value), device=device)[axes]

    batch = {Columns.OBS: tree.map_structure(lambda value: batch_of_one(value, axes=axes), space.sample())}
    if stateful:
        state = module.get_initial_state()
        batch[Columns.STATE_IN] = tree.map_structure(lambda value: batch_of_one(value, axes=(None,)), state)
    with torch.random.fork_rng(devices=[]):
        try:
            out = module.forward_exploration(batch)
        except Exception:  # whatever a user's module raises
            return None
    return Columns.ACTION_DIST_INPUTS in out
