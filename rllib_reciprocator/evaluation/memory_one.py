"""What players of matrix games for two make of the last joint action."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_reciprocator.models import BALANCE, Deterministic, probabilities

# The player's own action first.
LAST_ACTIONS = ("start", "CC", "CD", "DC", "DD")
_OBSERVATIONS = ((-1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))


@torch.no_grad()
def cooperation_by_last_actions(modules: Mapping[str, Any]) -> pd.DataFrame:
    """P(cooperate | last joint action) of players of a matrix game for two.

    Args:
        modules: RLModule by agent. One with a memory is asked with an empty one, one that sees its balance with that
            balance at zero.

    Returns:
        A row a player, by agent; a column for each of ``LAST_ACTIONS``.
    """
    rows = {agent: _probabilities(module)[:, 0].tolist() for agent, module in modules.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(LAST_ACTIONS))


def _probabilities(module: Any) -> Tensor:
    """Of both actions after each of the last joint actions, ``[5, 2]``."""
    module = module.unwrapped()
    obs = torch.zeros(len(_OBSERVATIONS), module.observation_space.shape[0])
    obs[:, :2] = torch.tensor(_OBSERVATIONS)
    batch: dict[str, Any] = {Columns.OBS: obs}
    if balances := getattr(module, "num_balances", 0):
        batch[BALANCE] = torch.zeros(len(obs), balances)
    if state := module.get_initial_state():
        batch[Columns.STATE_IN] = {
            name: torch.as_tensor(value).expand(len(obs), *value.shape) for name, value in state.items()
        }
    out = module.forward_exploration(batch)
    if Columns.ACTIONS in out:
        return Deterministic(out[Columns.ACTIONS]).probs(2)
    inputs = out[Columns.ACTION_DIST_INPUTS]
    return probabilities(module.get_exploration_action_dist_cls().from_logits(inputs), inputs, 2)
