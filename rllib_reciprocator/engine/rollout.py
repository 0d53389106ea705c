"""Sampling of rollouts: the loop over steps of all parallel environments."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
import tree
from torch import Tensor

from rllib_reciprocator.engine.masks import before_end
from rllib_reciprocator.engine.policy_groups import OnlineLearner, PerturbedPolicy, build_policy_groups
from rllib_reciprocator.engine.policy_pool import PolicyPool
from rllib_reciprocator.engine.rollout_batch import ModuleColumns, RolloutBatch, StepColumns
from rllib_reciprocator.engine.tracker import JointStep

if TYPE_CHECKING:
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

    from rllib_reciprocator.engine.config import BatchedConfig
    from social_dilemmas.batched_game import BatchedGame


class RolloutSampler:
    """Steps B parallel environments and records the columns of a rollout.

    A step resets finished environments, computes policy inputs, lets every policy group act, steps the game, and calls
    the trackers.

    Attributes:
        game: The parallel environments.
        groups: Policies that act.
        trackers: Step trackers of online learners and intrinsic rewards.
        generator: Random number generator of pool members, actions, online learners and perturbations.
        pool_members: ``[B, N]`` int64, index of the pool member that plays each agent; None without pools.
        environments: ``[B]`` int64, indices of the environments, unique in a run.
        reset_mask: Environments to reset before the next step: ``[B]`` bool, or True for all and False for none.
    """

    pool_members: Tensor | None = None
    _obs: Tensor
    # Steps since the last reset of all environments, modulo the horizon, if episodes have a fixed length.
    _step_count: int = 0
    # Index of the current inner episode in the meta-episode. All environments start inner episodes together.
    inner_episode_index: int = 0

    def __init__(
        self, config: BatchedConfig, game: BatchedGame, modules: MultiRLModule, *, environments: Tensor, phases: int
    ) -> None:
        """Builds policy groups and trackers; the next rollout starts new episodes.

        Args:
            config: Configuration of the run.
            game: The parallel environments.
            modules: Modules of all policies and trackers.
            environments: ``[B]`` int64, indices of the environments, unique in a run.
            phases: Number of phases of staggered environments; 1 without staggering.
        """
        self.game, self.environments, self._phases = game, environments, phases
        self.num_envs, self.device = game.num_games, game.device
        self.generator = torch.Generator(device=self.device)
        self.reset_mask: Tensor | bool = True
        self._none = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._all = ~self._none
        pool_members = config.pool_members()
        self.groups = build_policy_groups(modules, pool_members, config.policies_to_train, self.num_envs)
        self._pool = PolicyPool(pool_members, self.groups, distinct=config.draws_distinct_members(), device=self.device)
        self.trackers = config.build_trackers(game, modules)
        self._needs_state = any(tracker.needs_state for tracker in self.trackers)
        self._num_probs = int(game.action_space.n) if any(tracker.needs_probs for tracker in self.trackers) else None
        self._needs_inputs = any(group.inputs for group in self.groups)
        self._inner_episodes, self._group_size = config.inner_episodes(), config.group_size()
        self._online_learners = [group.module for group in self.groups if isinstance(group.module, OnlineLearner)]
        self._perturbed = [
            group
            for group in self.groups
            if group.learns and isinstance(group.module, PerturbedPolicy) and not config.in_evaluation
        ]
        self._keeps_final = config.keeps_final_observations(game)
        self._identifies_environments = config.identifies_environments(game)
        # Values of the step count at which the environments of each phase are truncated, for episodes of fixed length.
        self._end_counts = {phase * config.rollout_steps() % game.horizon for phase in range(phases)}

    def reset(self) -> None:
        """Starts new episodes and meta-episodes in all environments with the next rollout."""
        self.reset_mask, self.inner_episode_index = True, 0

    def reset_also(self, where: Tensor) -> None:
        """Adds environments, ``[B]`` bool, to those that are reset before the next step."""
        if self.reset_mask is not True:
            self.reset_mask = where if self.reset_mask is False else where | self.reset_mask

    def starts_new_meta_episodes(self) -> bool:
        """Returns True if the next step starts new episodes and meta-episodes in all environments."""
        return self.reset_mask is True and self.inner_episode_index == 0

    @torch.no_grad()
    def sample(self, length: int, explore: bool, *, only_first: bool = False) -> RolloutBatch:
        """Samples one rollout; environments whose episode ends are reset before their next step.

        Args:
            length: Number of steps in every environment.
            explore: If True, samples actions; if False, takes the most likely ones.
            only_first: If True, only the first episode of each environment counts, and no environment is reset.

        Returns:
            The rollout.
        """
        game = self.game
        steps, outcomes, tracker_columns = StepColumns(), StepColumns(), StepColumns()
        modules: dict[str, StepColumns] = defaultdict(StepColumns)
        memory_before: dict[str, dict[str, Tensor]] = {}
        final: dict[str, dict[str, Tensor]] = {}
        for tracker in self.trackers:
            tracker.begin()
        for t in range(length):
            is_first = self._reset_environments()
            if t == 0:
                memory_before = {group.module_id: dict(group.memory) for group in self.groups}
            if self.pool_members is not None:
                steps.add(pool_members=self.pool_members)
            inputs = self._inputs()
            state, time_left, obs = game.state() if self._needs_state else None, game.time_left(), self._obs
            actions, probs = self._act(inputs, modules, explore)
            step = game.step(actions)
            joint_step = JointStep(
                state, obs, actions, probs, step.rewards, step.terminated, step.truncated, time_left, self.pool_members
            )
            steps.add(
                actions=actions,
                rewards=step.rewards,
                terminated=step.terminated,
                truncated=step.truncated,
                is_first=is_first,
                time_left=time_left,
            )
            for tracker in self.trackers:
                tracker_columns.add(**tracker.after(joint_step))
            outcomes.add(**step.outcomes)
            self._obs = step.obs
            if self._keeps_final:
                self._keep_final(final, t, length, step.truncated)
            # Steps after the first episode do not count, so that environments need not be reset.
            self.reset_mask = False if only_first else self._ends(step.terminated | step.truncated)
        columns = tracker_columns.stacked(1)
        for tracker in self.trackers:
            columns |= tracker.finish()
        batch = RolloutBatch(
            **steps.stacked(1),
            columns=columns,
            modules=self._module_columns(modules, memory_before, final),
            outcomes=outcomes.stacked(1),
        )
        if only_first:
            batch.valid = before_end(batch.ended)
        if self._identifies_environments:
            batch.environments = self.environments
        return batch

    def _act(
        self, inputs: dict[str, Tensor], modules: dict[str, StepColumns], explore: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Computes the actions of all agents, and records the columns of trained modules.

        Args:
            inputs: Inputs from trackers, ``[B, N, K]`` by column.
            modules: Columns by module id, to which those of this step are added.
            explore: If True, samples actions; if False, takes the most likely ones.

        Returns:
            Actions, ``[B, N]`` int64, and action probabilities of the behavior policies, ``[B, N, A]``; None if no
            tracker needs the latter.
        """
        actions, probs = [], []
        for group in self.groups:
            action_columns = group.act(self._obs, inputs, self.generator, explore=explore, num_probs=self._num_probs)
            actions.append(action_columns.actions)
            if action_columns.probs is not None:
                probs.append(action_columns.probs)
            if group.learns:
                modules[group.module_id].add(**action_columns.columns)
        chosen_probs = self._pool.choose(probs, self.pool_members) if probs else None
        return self._pool.choose(actions, self.pool_members), chosen_probs

    def _reset_environments(self) -> Tensor:
        """Resets the environments in ``reset_mask`` with their recurrent states, pool members and trackers.

        Returns:
            The environments that were reset, ``[B]`` bool.
        """
        where = self.reset_mask
        if where is False:
            return self._none
        num_groups = self.num_envs // self._group_size
        if isinstance(where, bool):
            self._step_count = 0
            self._obs = self.game.reset()
            is_first_inner = self.inner_episode_index == 0
            for group in self.groups:
                if is_first_inner or not group.remembers:
                    group.reset_memory(None, self.device)
            if is_first_inner:
                # The order of these draws is part of what a seed determines.
                self.pool_members = self._pool.draw(num_groups, self._group_size, self.generator)
                for module in self._online_learners:
                    module.restart(self.num_envs, self.generator)
                for group in self._perturbed:
                    group.module.perturb(num_groups, len(group.agents), self.generator)
        else:
            self._obs = self.game.reset(where=where)
            for group in self.groups:
                group.reset_memory(where, self.device)
            members = self._pool.draw(num_groups, self._group_size, self.generator)
            if members is not None and self.pool_members is not None:
                self.pool_members = torch.where(where[:, None], members, self.pool_members)
        for group in self.groups:
            group.select_rows(self.pool_members)
        for tracker in self.trackers:
            tracker.start(None if isinstance(where, bool) else where)
        self.reset_mask = False
        return self._all if isinstance(where, bool) else where

    def _ends(self, ended: Tensor) -> Tensor | bool:
        """Returns the environments to reset before the next step, see ``reset_mask``; also advances the step count.

        Args:
            ended: ``[B]`` bool, the environments whose episode ended with this step.
        """
        if not self.game.terminates_early:
            # Episodes have a fixed length: counting steps on the host avoids synchronizing with the device.
            self._step_count = (self._step_count + 1) % self.game.horizon
            if self._phases > 1:
                return ended if self._step_count in self._end_counts else False
            if self._step_count == 0:
                self.inner_episode_index = (self.inner_episode_index + 1) % self._inner_episodes
            return self._step_count == 0
        if ended.is_cuda:
            return ended
        return ended if bool(ended.any()) else False

    def _inputs(self) -> dict[str, Tensor]:
        """Returns the inputs that trackers provide, ``[B, N, K]`` by column; empty if no module uses any."""
        inputs: dict[str, Tensor] = {}
        if self._needs_inputs:
            for tracker in self.trackers:
                inputs |= tracker.inputs()
        return inputs

    def _keep_final(self, final: dict[str, dict[str, Tensor]], t: int, length: int, truncated: Tensor) -> None:
        """Stores the last inputs of truncated episodes, whose values the learner bootstraps from.

        An environment is truncated at most once in ``horizon`` steps, so that one slot per interval of ``horizon``
        steps is enough.

        Args:
            final: Columns ``[B, S, K, ..]`` by module id, updated in place.
            t: Index of the step in the rollout.
            length: Number of steps of the rollout.
            truncated: ``[B]`` bool, environments that were truncated with this step.
        """
        inputs, slot = self._inputs(), t // self.game.horizon
        for group in self.groups:
            if not group.learns:
                continue
            columns = final.setdefault(group.module_id, {})
            for name, value in group.columns(self._obs, inputs).items():
                last_input = group.unflatten_agents(value)
                if name not in columns:
                    slots = math.ceil(length / self.game.horizon)
                    columns[name] = last_input.new_zeros(*last_input.shape[:2], slots, *last_input.shape[2:])
                mask = truncated.view(-1, *[1] * (last_input.dim() - 1))
                columns[name][:, :, slot] = torch.where(mask, last_input, columns[name][:, :, slot])

    def _module_columns(
        self,
        modules: dict[str, StepColumns],
        memory_before: dict[str, dict[str, Tensor]],
        final: dict[str, dict[str, Tensor]],
    ) -> dict[str, ModuleColumns]:
        """Returns the columns of all trained modules.

        Args:
            modules: Columns per step, by module id.
            memory_before: Recurrent states before the rollout, by module id.
            final: Last inputs of truncated episodes, by module id.
        """
        inputs, result = self._inputs(), {}
        for group in self.groups:
            if not group.learns:
                continue
            memory, last = memory_before[group.module_id], group.columns(self._obs, inputs)
            columns = ModuleColumns(
                steps=modules[group.module_id].stacked(2),
                memory_before={name: group.unflatten_agents(value) for name, value in memory.items()},
                last={name: group.unflatten_agents(value) for name, value in last.items()},
                final=final.get(group.module_id, {}),
            )
            if group in self._perturbed:
                for name, value in group.module.perturbations().items():
                    columns.extra[name] = value.repeat_interleave(self._group_size, 0)
            result[group.module_id] = columns
        return result

    def get_state(self) -> dict[str, Any]:
        """Returns the state of the environments, policies and trackers, on the CPU."""
        state = {
            "to_start": self.reset_mask,
            "clock": self._step_count,
            "number": self.inner_episode_index,
            "game": self.game.get_state(),
            "obs": self._obs,
            "members": self.pool_members,
            "memory": {group.module_id: group.memory for group in self.groups},
            "trackers": [tracker.get_state() for tracker in self.trackers],
        }
        return move_to("cpu", state)

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state that :meth:`get_state` returned."""
        generator = state["game"]["generator"]
        state = move_to(self.device, state)
        self.game.set_state({**state["game"], "generator": generator})
        self.reset_mask, self._step_count = state["to_start"], state["clock"]
        self.inner_episode_index = state.get("number", 0)
        self._obs, self.pool_members = state["obs"], state["members"]
        for group in self.groups:
            group.memory = state["memory"][group.module_id]
            group.select_rows(self.pool_members)
        for tracker, tracker_state in zip(self.trackers, state["trackers"], strict=True):
            tracker.set_state(tracker_state)


def move_to(device: torch.device | str, nested: Any) -> Any:
    """Moves all tensors of a nested structure to a device."""
    return tree.map_structure(lambda value: value.to(device) if isinstance(value, Tensor) else value, nested)
