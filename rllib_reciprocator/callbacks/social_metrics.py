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


def equality(returns: Tensor) -> float:
    """One less the Gini coefficient of returns that are not negative, ``[N]``; 1 if all are zero.

    Source: Perolat et al. (2017), equality.
    """
    total = returns.sum()
    if total <= 0:
        return 1.0
    differences = (returns[:, None] - returns[None, :]).abs().sum()
    return float(1.0 - differences / (2 * len(returns) * total))


def log_by_pair(
    metrics: MetricsLogger, agents: Sequence[Any], influence: Tensor, spread: Tensor, balance: Tensor
) -> None:
    """Logs the influence of each agent on each other, how it is spread, and the balances.

    Args:
        metrics: Where to.
        agents: Their names.
        influence: ``[N, N]`` by ``[j, i]``, mean influence of j on i.
        spread: Its standard deviation.
        balance: ``[N, N]`` by ``[j, i]``, mean balance of i towards j.
    """
    by_pair = [figures.tolist() for figures in (influence, spread, balance)]
    for (j, influencer), (i, influenced) in permutations(enumerate(agents), 2):
        pair = f"{influencer}_on_{influenced}"
        keys = ((INFLUENCE, pair), (INFLUENCE_STD, pair), (BALANCE, f"{influenced}_towards_{influencer}"))
        for key, figures in zip(keys, by_pair, strict=True):
            metrics.log_value(key, figures[j][i], reduce="mean")


class SocialMetricsCallback(RLlibCallback):
    """Logs social outcomes of every sample.

    Under ``env_runners/`` there are then

    - ``social/efficiency``: extrinsic reward of all players together a step (Perolat et al. 2017, utilitarian metric);
    - ``social/equality``: of the players' rewards above the lowest one that the game can give;
    - ``influence/J_on_I``, ``influence_std/J_on_I`` and ``balance/I_towards_J``: the mean and standard deviation of
      influence, and the mean balance, over all steps, for every ordered pair of players.
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
        spread, mean = torch.std_mean(influence, (0, 1), correction=0)
        log_by_pair(metrics_logger, game.agents, mean, spread, balance.mean((0, 1)))
