"""Metrics of influence and influence balance for every pair of agents."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import torch
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from torch import Tensor

from rllib_reciprocator.utils.quantiles import QUANTILES, quantiles

INFLUENCE, INFLUENCE_STD, BALANCE = "influence", "influence_std", "balance"


def log_by_pair(metrics: MetricsLogger, agents: Sequence[Any], influence: Tensor, balance: Tensor) -> None:
    """Logs the influence of each agent on each other agent, its distribution, and the balances.

    The metrics of every ordered pair are ``influence/J_on_I`` and ``influence_std/J_on_I``, mean and standard deviation
    over all steps, ``influence_quantiles/J_on_I``, evenly spaced quantiles, and ``balance/I_towards_J``, the mean.

    Args:
        metrics: Metrics logger.
        agents: Names of the agents.
        influence: ``[steps, N, N]`` by ``[j, i]``, influence of j on i.
        balance: ``[steps, N, N]`` by ``[j, i]``, balance of i towards j.
    """
    std, mean = torch.std_mean(influence, 0, correction=0)
    stats = [stat.tolist() for stat in (mean, std, balance.mean(0))]
    pair_quantiles = quantiles(influence.flatten(1))
    for (j, influencer), (i, influenced) in permutations(enumerate(agents), 2):
        pair = f"{influencer}_on_{influenced}"
        keys = ((INFLUENCE, pair), (INFLUENCE_STD, pair), (BALANCE, f"{influenced}_towards_{influencer}"))
        for key, stat in zip(keys, stats, strict=True):
            metrics.log_value(key, stat[j][i], reduce="mean")
        metrics.log_value((f"{INFLUENCE}_{QUANTILES}", pair), pair_quantiles[j * len(agents) + i], reduce="item_series")
