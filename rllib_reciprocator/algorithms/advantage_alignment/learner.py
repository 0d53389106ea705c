"""Learner of Advantage Alignment: PPO on advantages aligned with those of the co-players."""

from __future__ import annotations

import logging
from typing import Any

import torch
from ray.rllib.core import COMPONENT_OPTIMIZER
from ray.rllib.core.learner.learner import Learner
from ray.rllib.utils.annotations import override
from torch import Tensor

from rllib_reciprocator.algorithms.advantage_alignment.module import (
    CO_PLAYER_MASK,
    CO_PLAYER_TARGETS,
    AlignedModule,
)
from rllib_reciprocator.engine.advantages import generalized_advantages
from rllib_reciprocator.engine.learner import BatchedLearner, Joint
from rllib_reciprocator.engine.sample import ENVIRONMENT, STREAMS_PREFIX
from rllib_reciprocator.utils.distributed import deviation, sum_over_learners

logger = logging.getLogger(__name__)

# Key of the learner's state: discounted sums of past TD errors in the current episodes, [environments, N].
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


ALIGNED = "advantage_alignment"


class AdvantageAlignmentLearner(BatchedLearner):
    """Learner that trains ``advantage_alignment`` players by PPO on aligned advantages.

    The advantages of trained co-players come from their critics. Those of other co-players come from estimates of their
    returns by the agent's own module (:class:`AlignedModule`).
    """

    @override(BatchedLearner)
    def build(self) -> None:
        """Builds modules and optimizers, and flags the pool members with aligned advantages and the trained ones."""
        super().build()
        self._aligned = self.member_flags(lambda player: player.algorithm == ALIGNED)
        self._trained = self.member_flags(lambda player: player.learns)
        # Values of co-players before and after each step, [B, S, T, N - 1], by module that estimates them.
        self._co_player_values: dict[str, tuple[Tensor, Tensor]] = {}
        self._estimating = [key for key in self._agents if isinstance(self.module[key].unwrapped(), AlignedModule)]
        config = self.config
        environments = max(1, config.num_env_runners) * config.num_envs_per_env_runner
        self._past = torch.zeros(environments, len(self._pool_members), device=self._device)

    @override(BatchedLearner)
    def values(self, parts: dict[str, dict[str, Tensor]], joint: Joint) -> tuple[Tensor, Tensor]:
        """Returns the values of trained players; keeps the estimates of their co-players' values."""
        self._co_player_values = {}
        for module_id in self._estimating:
            module = self.module[module_id].unwrapped()
            values, last, final = self.values_without_memory(
                module.compute_co_player_values,
                parts[module_id],
                parts[STREAMS_PREFIX + module_id],
                len(self._agents[module_id]),
            )
            self._co_player_values[module_id] = (values, self.next_values(values, last, final, joint))
        return super().values(parts, joint)

    @override(BatchedLearner)
    def transform_advantages(self, joint: Joint, advantages: Tensor) -> Tensor:
        """Returns ``A_i + weight * alignment`` for aligned players, and the given advantages for other players.

        Each factor is divided by its standard deviation, so that the weight does not depend on the scale of rewards.
        """
        gamma, mask = self._gamma.lookup(joint), self.rollout_mask(joint)
        td_errors = joint["shaped_rewards"] + gamma * joint["next_values"] - joint["values"]
        td_errors, scaled_advantages = (
            self.over_members(joint, _in_deviations, values) for values in (td_errors, advantages)
        )
        trained_mask = mask.where(self._trained, advantages)
        trained_only_advantages = scaled_advantages * trained_mask
        co_players = trained_only_advantages.sum(-1, keepdim=True) - trained_only_advantages
        if self._co_player_values:
            co_players = co_players + self._untrained_advantages(joint, trained_mask)
        environments = joint[ENVIRONMENT][:, 0] if ENVIRONMENT in joint else None
        sums_before = None if environments is None else self._past[environments]
        past_sums, sums_after = past_gains(td_errors, joint["is_first"], gamma, sums_before)
        if environments is not None:
            self._keep_past(environments, sums_after)
        aligned_advantages = scaled_advantages + self.config.alignment_weight * alignment(past_sums, co_players, gamma)
        return torch.where(mask.where(self._aligned, advantages), aligned_advantages, advantages)

    def _keep_past(self, environments: Tensor, after: Tensor) -> None:
        """Stores the past TD errors of all learners' environments for the next rollout, on every learner.

        Args:
            environments: ``[B]``, indices of the environments in this learner's rollout.
            after: ``[B, N]``, their discounted sums of TD errors after it.
        """
        ones = torch.ones_like(after[:, :1])
        columns = torch.cat([after, ones], 1)
        zeros = torch.zeros(len(self._past), columns.shape[1], device=self._device)
        sums = sum_over_learners(zeros.index_copy(0, environments, columns))
        # Environments without steps in this update, e.g. those of a late env runner, keep their sums.
        self._past = torch.where(sums[:, -1:] > 0, sums[:, :-1], self._past)

    def _untrained_advantages(self, joint: Joint, trained: Tensor) -> Tensor:
        """Returns for each agent the sum of the advantages of co-players that are not trained, ``[B, T, N]``.

        Adds the targets of co-players' value estimates and their masks to ``joint``, by module.

        Args:
            joint: Columns of environment steps.
            trained: ``[B, T, N]`` bool, true for agents that are trained.
        """
        n, rollout_mask = trained.shape[-1], self.rollout_mask(joint)
        sums = torch.zeros_like(joint["rewards"])
        agents_after = torch.arange(1, n, device=self._device)
        for module_id, (before, after) in self._co_player_values.items():
            module_config = self.config.get_config_for_module(module_id)
            targets, masks = torch.empty_like(before), torch.zeros_like(before, dtype=torch.bool)
            for slot, (agent, member_index) in enumerate(
                zip(self._agents[module_id], self._numbers[module_id], strict=True)
            ):
                co_players = (agent + agents_after) % n
                advantages = generalized_advantages(
                    joint["shaped_rewards"][..., co_players],
                    before[:, slot],
                    after[:, slot],
                    joint["ended"],
                    gamma=module_config.gamma,
                    lambda_=module_config.lambda_,
                )
                targets[:, slot] = advantages + before[:, slot]
                plays = rollout_mask.of_member(agent, member_index)
                mask = ~trained[..., co_players] if plays is None else ~trained[..., co_players] & plays[..., None]
                masks[:, slot] = mask
                sums[..., agent] += (advantages / deviation(advantages, (0, 1), mask) * mask).sum(-1)
            joint[f"{CO_PLAYER_TARGETS}/{module_id}"] = targets
            joint[f"{CO_PLAYER_MASK}/{module_id}"] = masks
        return sums

    @override(BatchedLearner)
    @torch.no_grad()
    def prepare(self, parts: dict[str, dict[str, Tensor]], joint: Joint) -> dict[str, dict[str, Any]]:
        """Returns the training batches of all modules, with the targets and masks of co-players' value estimates."""
        batches = super().prepare(parts, joint)
        for module_id in self._co_player_values.keys() & batches.keys():
            for name in (CO_PLAYER_TARGETS, CO_PLAYER_MASK):
                batches[module_id][name] = joint[f"{name}/{module_id}"].flatten(0, 2)
        return batches

    @override(Learner)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Returns the learner's state, including the past TD errors of the current episodes."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(PAST, components, not_components):
            state[PAST] = self._past.cpu().numpy()
        return state

    @override(Learner)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores a state that :meth:`get_state` returned.

        If the number of environments differs, episodes are reset and have no past. Modules of earlier checkpoints do
        not estimate the returns of co-players: the optimizers of these modules are reset.
        """
        optimizer_states = dict(state.get(COMPONENT_OPTIMIZER, {}))
        for module_id in self._estimating:
            for name, optimizer in self.get_optimizers_for_module(module_id):
                key = f"{module_id}_{name}"
                if key in optimizer_states and _sizes(optimizer_states[key]["state"]) != _sizes(optimizer.state_dict()):
                    logger.warning("%s: the checkpoint does not estimate co-players; its optimizer is reset", module_id)
                    del optimizer_states[key]
        super().set_state({**state, COMPONENT_OPTIMIZER: optimizer_states} if COMPONENT_OPTIMIZER in state else state)
        if PAST in state and state[PAST].shape == tuple(self._past.shape):
            self._past = torch.as_tensor(state[PAST]).to(self._device)


def _sizes(optimizer_state: dict[str, Any]) -> list[int]:
    """Returns the number of parameters in each group of an optimizer's state."""
    return [len(group["params"]) for group in optimizer_state["param_groups"]]


def _in_deviations(values: Tensor, mask: Tensor | None) -> Tensor:
    """Divides the values of each agent, ``[B, T, N]``, by their standard deviation over the steps of a mask."""
    return values / deviation(values, (0, 1), mask)
