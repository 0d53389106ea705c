"""Traces of episodes: tables with the actions, rewards, influence, balances and incentives of every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from rllib_reciprocator.results.csv_text import write_csv
from rllib_reciprocator.utils.errors import writing


def step_rows(
    agents: Sequence[Any],
    actions: dict[Any, Any],
    rewards: Tensor,
    *,
    influence: Tensor | None = None,
    balance: Tensor | None = None,
    reciprocal: Mapping[Any, Tensor] | None = None,
    incentives: Tensor | None = None,
    episode_mask: Tensor | None = None,
    first_episode: int = 0,
) -> pd.DataFrame:
    """Builds a table of B episodes of at most T steps.

    Args:
        agents: Names of the N agents.
        actions: Actions by agent, ``B * T`` values.
        rewards: Extrinsic rewards, ``[B, T, N]``.
        influence: Influence of j on i, ``[B, T, N, N]`` by ``[j, i]``. None if it was not computed.
        balance: Influence balance of i towards j before the step, of the same shape.
        reciprocal: Reciprocal rewards ``[B, T]`` before weighting, by agent, for reciprocating agents.
        incentives: Incentives from i to j, ``[B, T, N, N]`` by ``[i, j]``. None if no agent gives incentives.
        episode_mask: Mask of the steps that belong to the episode, ``[B, T]`` bool. If None, all steps do.
        first_episode: Number of the first of these episodes.

    Returns:
        One row per step with ``episode``, ``step``, and for every agent or ordered pair ``action/A``, ``reward/A``,
        ``reciprocal_reward/A``, ``influence/J_on_I``, ``balance/I_towards_J`` and ``incentive/I_to_J``.
    """
    episodes, steps = rewards.shape[:2]
    columns: dict[str, Any] = {
        "episode": torch.arange(first_episode, first_episode + episodes).repeat_interleave(steps).numpy(),
        "step": torch.arange(steps).repeat(episodes).numpy(),
    }
    columns |= {f"action/{agent}": actions[agent] for agent in agents}
    columns |= {f"reward/{agent}": rewards[..., index].flatten().numpy() for index, agent in enumerate(agents)}
    if influence is not None and balance is not None:
        for (j, influencer), (i, influenced) in permutations(enumerate(agents), 2):
            columns[f"influence/{influencer}_on_{influenced}"] = influence[..., j, i].flatten().numpy()
            columns[f"balance/{influenced}_towards_{influencer}"] = balance[..., j, i].flatten().numpy()
    if incentives is not None:
        for (i, giver), (j, recipient) in permutations(enumerate(agents), 2):
            columns[f"incentive/{giver}_to_{recipient}"] = incentives[..., i, j].flatten().numpy()
    for agent, values in (reciprocal or {}).items():
        columns[f"reciprocal_reward/{agent}"] = values.flatten().numpy()
    rows = pd.DataFrame(columns)
    return rows if episode_mask is None else rows[episode_mask.flatten().numpy()].reset_index(drop=True)


def write_trace(rows: pd.DataFrame, file: Path) -> None:
    """Writes a trace as CSV.

    Raises:
        UserError: If the file cannot be written.
    """
    with writing("--trace", file):
        write_csv(rows, file)
