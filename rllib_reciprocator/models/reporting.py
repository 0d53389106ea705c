"""Checks that modules output the inputs of their action distribution."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
import tree
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule

# Modules of RLlib and of this package output them.
REPORTING = ("ray.rllib.algorithms.", "rllib_reciprocator.")


@torch.no_grad()
def reports_distribution(module: RLModule, *, time_axis: bool) -> bool | None:
    """Returns whether a module's output contains the inputs of its action distribution.

    Args:
        module: The module. It is called once, on a sample of its observation space.
        time_axis: If True, observations of stateful modules have a time axis, which RLlib's env runners add.

    Returns:
        None if the module raises an error on the sample, because the space may be larger than the set of observations
        that occur. The first step of the run is the check in this case.
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
        except Exception:  # modules of users can raise any exception
            return None
    return Columns.ACTION_DIST_INPUTS in out
