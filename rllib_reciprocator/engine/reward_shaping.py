"""Rewards that agents are trained on: extrinsic rewards, payments between agents, and weighted intrinsic rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from torch import Tensor

from rllib_reciprocator.engine.intrinsic_reward import IntrinsicReward
from rllib_reciprocator.utils.quantiles import QUANTILES, quantiles
from rllib_reciprocator.utils.settings import LOSS_MASK

if TYPE_CHECKING:
    from rllib_reciprocator.engine.context import RunContext
    from rllib_reciprocator.engine.rollout_batch import RolloutBatch


class RewardShaper:
    """Computes shaped rewards and logs the statistics of each intrinsic reward."""

    def __init__(
        self, context: RunContext, intrinsic_rewards: Sequence[IntrinsicReward[Any]], metrics: MetricsLogger
    ) -> None:
        """Groups the players by their settings.

        Args:
            context: Facts about the run.
            intrinsic_rewards: Intrinsic rewards of the run.
            metrics: Logger of the learner.
        """
        self.context, self.intrinsic_rewards, self.metrics = context, intrinsic_rewards, metrics
        # Players with equal settings are computed together: a reward function returns the rewards of all agents.
        self._groups: list[tuple[IntrinsicReward[Any], list[tuple[int, int]]]] = []
        for reward in intrinsic_rewards:
            by_settings: dict[str, list[tuple[int, int]]] = {}
            for player, settings in reward.settings.items():
                by_settings.setdefault(settings.model_dump_json(), []).append(player)
            self._groups += [(reward, players) for players in by_settings.values()]

    def extrinsic(self, batch: RolloutBatch) -> Tensor:
        """Computes extrinsic rewards plus payments between agents, ``[B, T, N]``."""
        total = batch.rewards
        for reward in self.intrinsic_rewards:
            payments = reward.payments(batch)
            if payments is not None:
                total = total + payments
        return total

    def shape(self, batch: RolloutBatch, iteration: int) -> Tensor:
        """Computes the rewards that agents are trained on, ``[B, T, N]``.

        Args:
            batch: The rollout, with ``extrinsic``.
            iteration: Index of the training iteration, from 0, on which weights may depend.
        """
        shaped_rewards = batch.extrinsic
        totals: dict[str, Tensor] = {}
        for reward, players in self._groups:
            total = totals.setdefault(reward.name, torch.zeros_like(batch.rewards))
            self._add_reward(reward, players, batch, iteration, total)
        for total in totals.values():
            shaped_rewards = shaped_rewards + total
        return shaped_rewards

    def _add_reward(
        self,
        reward: IntrinsicReward[Any],
        players: list[tuple[int, int]],
        batch: RolloutBatch,
        iteration: int,
        total: Tensor,
    ) -> None:
        """Adds the weighted intrinsic reward of players with equal settings to ``total``, ``[B, T, N]``, in place."""
        settings, rollout_mask = reward.settings[players[0]], self.context.mask(batch)
        masks = {agent: rollout_mask.of_member(agent, member) for agent, member in players}
        mask = _by_agent(masks, batch.rewards)
        columns = batch.reward_columns()
        values = reward.rewards(columns if mask is None else {**columns, LOSS_MASK: mask}, settings)
        if values is None:
            return
        weight = settings.weight_at(iteration)
        for agent, member in players:
            module_id, agent_values = self.context.module_ids[agent][member], values[..., agent]
            self._log(reward, module_id, agent_values, masks[agent], weight)
            if batch.pool_members is not None:
                agent_values = agent_values * (batch.pool_members[..., agent] == member)
            total[..., agent] += weight * agent_values

    def _log(
        self, reward: IntrinsicReward[Any], module_id: str, values: Tensor, mask: Tensor | None, weight: float
    ) -> None:
        """Logs the weight of an intrinsic reward, and its unweighted statistics over the steps that count.

        Args:
            reward: The intrinsic reward.
            module_id: Id of the module that receives it.
            values: ``[B, T]``, unweighted rewards.
            mask: ``[B, T]`` bool, the steps that count; None if all do.
            weight: Weight of the reward in this iteration.
        """
        label = reward.label or reward.name
        self.metrics.log_value((reward.weight_logged_with or module_id, f"{label}_weight"), weight, window=1)
        if mask is not None:
            values = values[mask]
            if not len(values):
                return
        stats = {f"{label}_reward_mean": values.mean(), f"{label}_reward_std": values.std(correction=0)}
        self.metrics.log_dict(stats, key=module_id, window=1)
        (reward_quantiles,) = quantiles(values.reshape(-1, 1))
        self.metrics.log_value((module_id, f"{label}_reward_{QUANTILES}"), reward_quantiles, reduce="item_series")


def _by_agent(masks: Mapping[int, Tensor | None], like: Tensor) -> Tensor | None:
    """Stacks the masks of some agents into ``[B, T, N]``, false for all other agents.

    Args:
        masks: Mask ``[B, T]`` by agent; None if all its steps count.
        like: Tensor of shape ``[B, T, N]``.

    Returns:
        ``[B, T, N]`` bool; None if all masks are None.
    """
    if all(mask is None for mask in masks.values()):
        return None
    result = torch.zeros_like(like, dtype=torch.bool)
    for agent, mask in masks.items():
        result[..., agent] = True if mask is None else mask
    return result
