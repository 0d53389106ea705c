"""What players of matrix games for two make of the last joint action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def cooperation_in_context(actions: Tensor, agents: Sequence[str]) -> pd.DataFrame:
    """How often players of a matrix game for two cooperated after each last joint action, in each inner episode.

    Args:
        actions: ``[meta-episodes, inner episodes, T, 2]`` int64.
        agents: Names of the two.

    Returns:
        A row an agent and inner episode; a column for each of ``LAST_ACTIONS``, not a number where it did not happen.
    """
    last = torch.cat([torch.full_like(actions[:, :, :1], -1), actions[:, :, :-1]], 2)
    rows = {}
    for index, agent in enumerate(agents):
        own, other = last[..., index], last[..., 1 - index]
        after = torch.where(own < 0, 0, 1 + 2 * own + other)
        for number in range(actions.shape[1]):
            happened = torch.nn.functional.one_hot(after[:, number].flatten(), len(LAST_ACTIONS)).float()
            cooperated = (actions[:, number, :, index].flatten() == 0).float()
            rows[agent, number] = ((cooperated @ happened) / happened.sum(0)).tolist()
    index_of_rows = pd.MultiIndex.from_tuples(rows, names=["agent", "inner episode"])
    return pd.DataFrame(list(rows.values()), index=index_of_rows, columns=list(LAST_ACTIONS))


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
