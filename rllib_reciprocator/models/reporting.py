"""Whether modules report the distribution that their actions are drawn from."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
import tree
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule

# Default modules of RLlib and of this package report it.
REPORTING = ("ray.rllib.algorithms.", "rllib_reciprocator.")


@torch.no_grad()
def reports_distribution(module: RLModule, *, time_axis: bool) -> bool | None:
    """Returns whether a module's output holds the inputs of its action distribution.

    Args:
        module: The module, which acts once.
        time_axis: If True, observations of modules with a state have an axis of time, as RLlib's env runners add it.

    Returns:
        None if it cannot act on a sample of its observation space, which may be wider than what it is shown; the first
        step of the run is the check then.
    """
    space = copy.deepcopy(module.observation_space)
    space.seed(0)
    stateful = module.is_stateful()
    axes = (None, None) if stateful and time_axis else (None,)
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
