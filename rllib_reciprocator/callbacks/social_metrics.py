"""Social outcomes, and who influenced whom, as metrics of every iteration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from torch import Tensor

if TYPE_CHECKING:
    from rllib_reciprocator.rollout import BatchedEnvRunner, ColumnarSample

SOCIAL, INFLUENCE, INFLUENCE_STD, BALANCE = "social", "influence", "influence_std", "balance"
QUANTILES = "quantiles"
# A distribution is told by so many evenly spaced quantiles, of so many of its values at most.
_NUM_QUANTILES, _MOST_VALUES = 33, 8192


def equality(returns: Tensor) -> float:
    """One less the Gini coefficient of returns that are not negative, ``[N]``; 1 if all are zero.

    Source: Perolat et al. (2017), equality.
    """
    total = returns.sum()
    if total <= 0:
        return 1.0
    differences = (returns[:, None] - returns[None, :]).abs().sum()
    return float(1.0 - differences / (2 * len(returns) * total))


def quantiles(values: Tensor) -> list[list[float]]:
    """Evenly spaced quantiles of each column of ``[rows, columns]``, from the smallest to the largest value."""
    some = values[:: -(-len(values) // _MOST_VALUES)].float()
    return some.quantile(torch.linspace(0.0, 1.0, _NUM_QUANTILES, device=values.device), 0).t().tolist()


def log_by_pair(metrics: MetricsLogger, agents: Sequence[Any], influence: Tensor, balance: Tensor) -> None:
    """Logs the influence of each agent on each other, how it is distributed, and the balances.

    Args:
        metrics: Where to.
        agents: Their names.
        influence: ``[steps, N, N]`` by ``[j, i]``, influence of j on i.
        balance: ``[steps, N, N]`` by ``[j, i]``, balance of i towards j.
    """
    spread, mean = torch.std_mean(influence, 0, correction=0)
    by_pair = [figures.tolist() for figures in (mean, spread, balance.mean(0))]
    distributed = quantiles(influence.flatten(1))
    for (j, influencer), (i, influenced) in permutations(enumerate(agents), 2):
        pair = f"{influencer}_on_{influenced}"
        keys = ((INFLUENCE, pair), (INFLUENCE_STD, pair), (BALANCE, f"{influenced}_towards_{influencer}"))
        for key, figures in zip(keys, by_pair, strict=True):
            metrics.log_value(key, figures[j][i], reduce="mean")
        metrics.log_value((f"{INFLUENCE}_{QUANTILES}", pair), distributed[j * len(agents) + i], reduce="item_series")


class SocialMetricsCallback(RLlibCallback):
    """Logs social outcomes of every sample.

    Under ``env_runners/`` there are then

    - ``social/efficiency``: extrinsic reward of all players together a step (Perolat et al. 2017, utilitarian metric);
    - ``social/equality``: of the players' rewards above the lowest one that the game can give;
    - ``influence/J_on_I``, ``influence_std/J_on_I`` and ``balance/I_towards_J``: the mean and standard deviation of
      influence, and the mean balance, over all steps, for every ordered pair of players;
    - ``influence_quantiles/J_on_I``: evenly spaced quantiles of influence, those of all samples one after the other.
    """

    def on_sample_end(
        self,
        *,
        env_runner: BatchedEnvRunner,
        metrics_logger: MetricsLogger,
        samples: list[ColumnarSample],
        **kwargs: Any,
    ) -> None:
        """Called by the env runner after each sample."""
        game = env_runner.game
        rewards = torch.stack([sample.rewards.mean((0, 1)) for sample in samples]).mean(0)
        metrics_logger.log_value((SOCIAL, "efficiency"), float(rewards.sum()), reduce="mean")
        metrics_logger.log_value((SOCIAL, "equality"), equality(rewards - game.reward_range[0]), reduce="mean")
        if not env_runner.estimates_influence:
            return
        influence = torch.cat([sample.influence for sample in samples])
        balance = torch.cat([sample.balance for sample in samples])
        log_by_pair(metrics_logger, game.agents, influence.flatten(0, 1), balance.flatten(0, 1))
