"""Cooperation rates of policies in matrix games for two players, given the last joint action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule
from torch import Tensor

from rllib_reciprocator.models import Deterministic, probabilities

# The first letter is the player's own action, the second its co-player's.
LAST_ACTIONS = ("start", "CC", "CD", "DC", "DD")
_OBSERVATIONS = ((-1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))


@torch.no_grad()
def cooperation_by_last_actions(modules: Mapping[str, Any]) -> pd.DataFrame:
    """Computes P(cooperate | last joint action) of policies in a matrix game for two players.

    Args:
        modules: RLModules by agent. Recurrent modules are evaluated with their initial state, and modules that observe
            influence balances with balances of zero.

    Returns:
        One row per agent and one column per item of ``LAST_ACTIONS``.
    """
    rows = {agent: _probabilities(module)[:, 0].tolist() for agent, module in modules.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(LAST_ACTIONS))


def cooperation_in_context(actions: Tensor, agents: Sequence[str]) -> pd.DataFrame:
    """Computes cooperation rates in a matrix game for two players, by last joint action and inner episode.

    Args:
        actions: ``[meta-episodes, inner episodes, T, 2]`` int64.
        agents: Names of the two agents.

    Returns:
        One row per agent and inner episode, and one column per item of ``LAST_ACTIONS``. Rates are NaN for joint
        actions that did not occur.
    """
    last = torch.cat([torch.full_like(actions[:, :, :1], -1), actions[:, :, :-1]], 2)
    rows = {}
    for index, agent in enumerate(agents):
        own_action, co_player_action = last[..., index], last[..., 1 - index]
        # Index into LAST_ACTIONS; -1 marks the first step of an inner episode.
        context = torch.where(own_action < 0, 0, 1 + 2 * own_action + co_player_action)
        for inner_episode in range(actions.shape[1]):
            one_hot = torch.nn.functional.one_hot(context[:, inner_episode].flatten(), len(LAST_ACTIONS)).float()
            cooperation = (actions[:, inner_episode, :, index].flatten() == 0).float()
            rows[agent, inner_episode] = ((cooperation @ one_hot) / one_hot.sum(0)).tolist()
    index_of_rows = pd.MultiIndex.from_tuples(rows, names=["agent", "inner episode"])
    return pd.DataFrame(list(rows.values()), index=index_of_rows, columns=list(LAST_ACTIONS))


def _probabilities(module: RLModule) -> Tensor:
    """Computes the probabilities of both actions after every item of ``LAST_ACTIONS``, ``[5, 2]``."""
    module = module.unwrapped()
    obs = torch.zeros(len(_OBSERVATIONS), module.observation_space.shape[0])
    obs[:, :2] = torch.tensor(_OBSERVATIONS)
    batch: dict[str, Any] = {Columns.OBS: obs}
    for policy_input in getattr(module, "policy_inputs", ()):
        batch[policy_input.name] = torch.zeros(len(obs), policy_input.size)
    if state := module.get_initial_state():
        batch[Columns.STATE_IN] = {
            name: torch.as_tensor(value).expand(len(obs), *value.shape) for name, value in state.items()
        }
    out = module.forward_exploration(batch)
    if Columns.ACTIONS in out:
        return Deterministic(out[Columns.ACTIONS]).probs(2)
    inputs = out[Columns.ACTION_DIST_INPUTS]
    return probabilities(module.get_exploration_action_dist_cls().from_logits(inputs), inputs, 2)
