"""Advantage alignment as an advantage step: past TD errors of an agent times present advantages of its co-players."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from rllib_reciprocator.algorithms.advantage_alignment.module import CO_PLAYER_MASK, CO_PLAYER_TARGETS, has_advantages
from rllib_reciprocator.engine.advantages import generalized_advantages
from rllib_reciprocator.engine.learner import BatchedLearner
from rllib_reciprocator.engine.rollout_batch import RolloutBatch
from rllib_reciprocator.engine.update_rule import AdvantageStep
from rllib_reciprocator.utils.distributed import deviation, sum_over_learners

# Key of the step's state: discounted sums of past TD errors in the current episodes, [environments, N].
PAST = "past_of_episodes"


def past_gains(gains: Tensor, is_first: Tensor, gamma: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Returns the discounted sum of an agent's TD errors in the episode before each step.

    ``sum over k < t of gamma^(t - k) d_i(k)``

    Args:
        gains: ``[B, T, N]``, TD errors d.
        is_first: ``[B, T]`` bool, true at the first step of an episode.
        gamma: ``[N]`` or ``[B, T, N]``, discounts.
        before: ``[B, N]``, the sums of episodes that began before the rollout; zero if None.

    Returns:
        The sums before each step, ``[B, T, N]``, and after the last step, ``[B, N]``.
    """
    sums = torch.empty_like(gains)
    running = torch.zeros_like(gains[:, 0]) if before is None else before
    for t in range(gains.shape[1]):
        running = torch.where(is_first[:, t, None], 0.0, running)
        sums[:, t] = running
        running = (gamma if gamma.dim() == 1 else gamma[:, t]) * (running + gains[:, t])
    return sums, running


def alignment(past: Tensor, others: Tensor, gamma: Tensor) -> Tensor:
    """Returns the alignment term: past TD errors of an agent times present advantages of its co-players.

    ``gamma * [sum over k < t of gamma^(t - k) d_i(k)] * sum over j != i of A_j(t)``

    Source: Duque, Aghajohari et al., "Advantage Alignment Algorithms", ICLR 2025. The terms d of the sum over the past
    are TD errors, which do not depend on the present step. The released code uses the mean of GAE advantages instead;
    their noise is correlated with that of the present advantages, and policies then oscillate.

    Args:
        past: ``[B, T, N]``, see :func:`past_gains`.
        others: ``[B, T, N]``, for each agent the sum of the advantages of its co-players.
        gamma: ``[N]`` or ``[B, T, N]``, discounts.

    Returns:
        ``[B, T, N]``.
    """
    return gamma * past * others


class AlignmentStep(AdvantageStep):
    """Adds the alignment term to the advantages of players.

    Advantages of co-players that are trained on them are those of the rollout. Those of other co-players come from
    estimates of their returns by the agent's own module (:class:`AlignedModule`). Each factor is divided by its
    standard deviation, so that the weight does not depend on the scale of rewards.
    """

    follows_environments: ClassVar[bool] = True

    def __init__(self, learner: BatchedLearner, path: str = "") -> None:
        """Flags the pool members that are trained on advantages; past TD errors are zero."""
        super().__init__(learner, path)
        context = self.context
        self._trained = context.member_flags(
            lambda player: has_advantages(self.config, context, player), learner.device
        )
        self._estimating = [
            module_id
            for module_id in context.trained
            if path in context.kind_of(context.player_of(module_id)).advantage_steps
            and learner.unwrapped(module_id).co_critic is not None
        ]
        self._weight = learner.members.setting(lambda config, rule: float(config.alignment_weight))
        self._past = torch.zeros(context.num_environments, context.num_agents, device=learner.device)

    def __call__(self, batch: RolloutBatch) -> None:
        """Changes advantages, and adds the targets of co-players' value estimates to the columns of modules."""
        settings, members, mask = self.learner.members, batch.pool_members, self.context.mask(batch)
        gamma, weight = settings.gamma.lookup(members), self._weight.lookup(members)
        td_errors = batch.shaped_rewards + gamma * batch.next_values - batch.values
        td_errors = settings.over_members(batch, _in_deviations, td_errors)
        scaled_advantages = settings.over_members(batch, _in_deviations, batch.advantages)
        trained_mask = mask.where(self._trained, batch.advantages)
        trained_only_advantages = scaled_advantages * trained_mask
        co_players = trained_only_advantages.sum(-1, keepdim=True) - trained_only_advantages
        if self._estimating:
            co_players = co_players + self._untrained_advantages(batch, trained_mask)
        sums_before = None if batch.environments is None else self._past[batch.environments]
        past_sums, sums_after = past_gains(td_errors, batch.is_first, gamma, sums_before)
        if batch.environments is not None:
            self._keep_past(batch.environments, sums_after)
        aligned_advantages = scaled_advantages + weight * alignment(past_sums, co_players, gamma)
        has_step = mask.where(self.flags, batch.advantages)
        batch.advantages = torch.where(has_step, aligned_advantages, batch.advantages)

    def _keep_past(self, environments: Tensor, after: Tensor) -> None:
        """Stores the past TD errors of all learners' environments for the next rollout, on every learner.

        Args:
            environments: ``[B]``, indices of the environments in this learner's rollout.
            after: ``[B, N]``, their discounted sums of TD errors after it.
        """
        ones = torch.ones_like(after[:, :1])
        columns = torch.cat([after, ones], 1)
        zeros = torch.zeros(len(self._past), columns.shape[1], device=after.device)
        sums = sum_over_learners(zeros.index_copy(0, environments, columns))
        # Environments without steps in this update, e.g. those of a late env runner, keep their sums.
        self._past = torch.where(sums[:, -1:] > 0, sums[:, :-1], self._past)

    def _untrained_advantages(self, batch: RolloutBatch, trained: Tensor) -> Tensor:
        """Returns for each agent the sum of the advantages of co-players that are not trained, ``[B, T, N]``.

        Adds the targets of co-players' value estimates and their masks to the columns of the estimating modules.

        Args:
            batch: The rollout.
            trained: ``[B, T, N]`` bool, true for agents that are trained on advantages.
        """
        n, rollout_mask, estimator = trained.shape[-1], self.context.mask(batch), self.learner.value_estimator
        sums = torch.zeros_like(batch.rewards)
        agents_after = torch.arange(1, n, device=sums.device)
        for module_id in self._estimating:
            module_config, module = self.config.get_config_for_module(module_id), self.learner.unwrapped(module_id)
            columns = batch.modules[module_id]
            before, last, final = estimator.without_memory(module.compute_co_player_values, columns)
            after = estimator.next_values(module_id, batch, before, last, final)
            targets, masks = torch.empty_like(before), torch.zeros_like(before, dtype=torch.bool)
            for slot, seat in enumerate(self.context.seats_of(module_id)):
                co_players = (seat.agent + agents_after) % n
                advantages = generalized_advantages(
                    batch.shaped_rewards[..., co_players],
                    before[:, slot],
                    after[:, slot],
                    self.learner.members.ends_of(module_id, batch),
                    gamma=module_config.gamma,
                    lambda_=module_config.lambda_,
                )
                targets[:, slot] = advantages + before[:, slot]
                plays = rollout_mask.of_member(seat.agent, seat.member)
                mask = ~trained[..., co_players] if plays is None else ~trained[..., co_players] & plays[..., None]
                masks[:, slot] = mask
                sums[..., seat.agent] += (advantages / deviation(advantages, (0, 1), mask) * mask).sum(-1)
            columns.steps[CO_PLAYER_TARGETS], columns.steps[CO_PLAYER_MASK] = targets, masks
        return sums

    def get_state(self) -> dict[str, Any]:
        """Returns the past TD errors of the current episodes."""
        return {PAST: self._past.cpu().numpy()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the past TD errors. If the number of environments differs, episodes are reset and have no past."""
        if PAST in state and state[PAST].shape == tuple(self._past.shape):
            self._past = torch.as_tensor(state[PAST]).to(self._past.device)


def _in_deviations(values: Tensor, mask: Tensor | None) -> Tensor:
    """Divides the values of each agent, ``[B, T, N]``, by their standard deviation over the steps of a mask."""
    return values / deviation(values, (0, 1), mask)
