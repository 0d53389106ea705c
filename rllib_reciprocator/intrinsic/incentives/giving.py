"""Masks of giving and receiving incentives in a rollout, and the inputs of incentive functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_reciprocator.intrinsic.incentives.settings import GIVEN, INCENTIVES
from rllib_reciprocator.utils.distributed import averaged_over_learners, sum_over_learners

if TYPE_CHECKING:
    from rllib_reciprocator.engine.context import RunContext
    from rllib_reciprocator.engine.rollout_batch import RolloutBatch
    from rllib_reciprocator.intrinsic.incentives.incentive_functions import IncentiveFunctions

# Inputs of incentive functions, with B * T rows: observations, actions, and the sums of incentives given before.
FunctionInputs = tuple[Tensor, Tensor, Tensor | None]


def givers_of(context: RunContext) -> list[int]:
    """Returns the indices of agents whose incentive functions are trained."""
    seats = (seat for seat in context.seats() if seat.player.learns and INCENTIVES in seat.player.intrinsic)
    return list(dict.fromkeys(seat.agent for seat in seats))


def recipients_of(context: RunContext) -> list[int]:
    """Returns the indices of agents with a trained player."""
    return list(dict.fromkeys(seat.agent for seat in context.seats() if seat.player.learns))


def agents_with_advantages(context: RunContext) -> list[int]:
    """Returns the indices of agents with a player that is trained on advantages."""
    seats = (seat for seat in context.seats() if seat.player.learns)
    return list(dict.fromkeys(seat.agent for seat in seats if context.rule_class(seat.player).uses_advantages))


class Giving:
    """Masks of the steps in which trained players give and receive incentives, and means over their episodes."""

    def __init__(self, context: RunContext, device: torch.device) -> None:
        """Flags the pool members that give and those that receive.

        Args:
            context: Facts about the run.
            device: Device of the rollouts.
        """
        self.context, self.device = context, device
        self._givers = context.member_flags(lambda player: player.learns and INCENTIVES in player.intrinsic, device)
        self._recipients = context.member_flags(lambda player: player.learns, device)
        # Number of steps of an episode, if rollouts are sequences of episodes of fixed length.
        self._episodes_per_rollout = context.meta.inner_episodes if context.samples_meta_episodes else 1
        self.episode_steps = context.rollout_steps // self._episodes_per_rollout

    def valid(self, batch: RolloutBatch) -> Tensor:
        """Returns the mask of the steps that count, ``[B, T]`` bool, independent of pool members."""
        return torch.ones_like(batch.ended) if batch.valid is None else batch.valid

    def giving(self, batch: RolloutBatch) -> Tensor:
        """Returns the steps that count in which a trained giver plays each agent, ``[B, T, N]`` bool."""
        return self.context.mask(batch).where(self._givers, batch.rewards)

    def receiving(self, batch: RolloutBatch) -> Tensor:
        """Returns the steps that count in which a trained player plays each agent, ``[B, T, N]`` bool."""
        return self.context.mask(batch).where(self._recipients, batch.rewards)

    def giver_mask(self, batch: RolloutBatch) -> Tensor:
        """Returns the mask of the givers' statistics, bool: ``[B, T]``, or ``[B, T, N]`` with pools."""
        return self.valid(batch) if batch.pool_members is None else self.giving(batch)

    def episodes(self, batch: RolloutBatch) -> float | Tensor:
        """Returns the number of episodes on all learners; with pools, those in which each giver plays, ``[N]``."""
        factor = self._episodes_per_rollout
        if batch.pool_members is None:
            return averaged_over_learners([torch.zeros(1, device=self.device)], len(batch.rewards) * factor)
        episodes_per_giver = self.giving(batch).any(1).sum(0).to(batch.rewards.dtype) * factor
        return sum_over_learners(episodes_per_giver).clamp(min=1.0)

    def per_episode(self, values: Tensor, batch: RolloutBatch) -> Tensor:
        """Averages values ``[B, T, N]`` of each giver over the episodes in which it plays, and sums over givers."""
        episodes = self.episodes(batch)
        if isinstance(episodes, Tensor):
            return (values.sum((0, 1)) / episodes).sum()
        return values.sum() / episodes


def function_inputs(context: RunContext, functions: IncentiveFunctions, batch: RolloutBatch) -> FunctionInputs:
    """Returns the inputs of incentive functions in all steps of a rollout."""
    columns = {module_id: module.steps[Columns.OBS] for module_id, module in batch.modules.items()}
    obs = trained_observations(context, functions, columns).flatten(0, 1)
    given_before = batch.columns[GIVEN].flatten(0, 1) if functions.observes_given else None
    return obs, batch.actions.flatten(0, 1), given_before


def trained_observations(context: RunContext, functions: IncentiveFunctions, columns: Mapping[str, Tensor]) -> Tensor:
    """Returns the observations of trained agents, ``[B, T, N, *obs_shape]``; zero for the others.

    Args:
        context: Facts about the run.
        functions: Incentive functions, whose observation space is that of the agents.
        columns: Observations ``[B, S, T, *obs_shape]`` by id of the trained module.
    """
    first = next(iter(columns.values()))
    shape = (len(first), first.shape[2], context.num_agents)
    obs = torch.zeros(*shape, *functions.observation_space.shape, device=first.device)
    for module_id, module_obs in columns.items():
        obs[:, :, context.agents_of(module_id)] = module_obs.transpose(1, 2).to(obs.dtype)
    return obs
