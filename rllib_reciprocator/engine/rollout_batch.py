"""Rollouts as typed columns of tensors, which env runners return instead of RLlib's episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
import tree
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_reciprocator.engine.masks import before_end

# Prefixes of the columns per sequence in rollouts that version 0.1 stored in checkpoints.
_LAST, _FINAL = "last/", "final/"


@dataclass(repr=False)
class ModuleColumns:
    """Columns of a trained module, which plays S agents.

    Attributes:
        steps: Columns per step, ``[B, S, T, ..]``: observations, actions, log-probabilities, distribution inputs, and
            inputs from trackers.
        memory_before: Recurrent state before the first step, ``[B, S, ..]``; empty without memory.
        last: Inputs after the last step, ``[B, S, ..]``.
        final: Last inputs of episodes that were truncated inside the rollout, ``[B, S, K, ..]``, the k-th for steps
            ``k * horizon`` to ``(k + 1) * horizon``; empty if the learner does not need them.
        extra: Further columns per sequence, ``[B, S, ..]``, e.g. seeds of perturbations.
    """

    steps: dict[str, Tensor]
    memory_before: dict[str, Tensor] = field(default_factory=dict)
    last: dict[str, Tensor] = field(default_factory=dict)
    final: dict[str, Tensor] = field(default_factory=dict)
    extra: dict[str, Tensor] = field(default_factory=dict)


@dataclass(repr=False)
class RolloutBatch:
    """Rollout of T steps of B parallel environments with N agents.

    Environments are reset after the end of an episode, and an episode that is not over at the end of a rollout
    continues in the next one. The T steps of an agent in an environment are therefore a sequence of consecutive
    episodes; ``is_first`` marks their first steps.

    Attributes:
        actions: ``[B, T, N]`` int64.
        rewards: ``[B, T, N]`` float32, extrinsic.
        terminated: ``[B, T]`` bool, True if the rules ended the episode with the step.
        truncated: ``[B, T]`` bool, True if the episode reached its horizon with the step.
        is_first: ``[B, T]`` bool, True in the first step of an episode.
        time_left: ``[B, T]`` float32, fraction of the episode that remained before the step.
        pool_members: ``[B, T, N]`` int64, index of the pool member that played each agent; None without pools.
        valid: ``[B, T]`` bool, the steps that count, if only the first episode of each environment does; else None.
        environments: ``[B]`` int64, indices of the environments, unique among all env runners; None if not needed.
        columns: Columns recorded by trackers, ``[B, T, ..]`` by name.
        modules: Columns of each trained module, by module id.
        outcomes: Events of each step that the environment reports, ``[B, T, N]`` by name.
        extrinsic: ``[B, T, N]``, rewards plus payments between agents. This and the following attributes are computed
            by the learner.
        shaped_rewards: ``[B, T, N]``, rewards that agents are trained on.
        ends: Ends of the sums of rewards that values estimate, bool: ``[B, T]``, or ``[B, T, N]`` if they differ
            between agents.
        values: ``[B, T, N]``, values before each step; zero without a critic.
        next_values: ``[B, T, N]``, values after each step; zero where ``ends``, unless bootstrapped.
        advantages: ``[B, T, N]``.
        value_targets: ``[B, T, N]``.
        advantage_scale: Scalar by which the advantages of all players were divided; None without ``scale_advantages``.
    """

    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    is_first: Tensor
    time_left: Tensor
    pool_members: Tensor | None = None
    valid: Tensor | None = None
    environments: Tensor | None = None
    columns: dict[str, Tensor] = field(default_factory=dict)
    modules: dict[str, ModuleColumns] = field(default_factory=dict)
    outcomes: dict[str, Tensor] = field(default_factory=dict)
    # The learner sets these before anything reads them; they are not part of the data that env runners return.
    extrinsic: Tensor = None  # type: ignore[assignment]
    shaped_rewards: Tensor = None  # type: ignore[assignment]
    ends: Tensor = None  # type: ignore[assignment]
    values: Tensor = None  # type: ignore[assignment]
    next_values: Tensor = None  # type: ignore[assignment]
    advantages: Tensor = None  # type: ignore[assignment]
    value_targets: Tensor = None  # type: ignore[assignment]
    advantage_scale: Tensor | None = None

    @property
    def ended(self) -> Tensor:
        """Ends of episodes, ``[B, T]`` bool: True if an episode was terminated or truncated with the step."""
        return self.terminated | self.truncated

    def env_steps(self) -> int:
        """Returns the number of environment steps that count."""
        return self.terminated.numel() if self.valid is None else int(self.valid.sum())

    def agent_steps(self) -> int:
        """Returns the number of agent steps that count."""
        return self.env_steps() * self.rewards.shape[-1]

    def __len__(self) -> int:
        return self.env_steps()

    def __repr__(self) -> str:
        """Returns the sizes of the rollout."""
        environments, steps, agents = self.rewards.shape
        return f"RolloutBatch({environments} environments, {steps} steps, {agents} agents)"

    def reward_columns(self) -> dict[str, Tensor]:
        """Returns the columns that reward functions take, ``[B, T, ..]`` by name: those of trackers, actions, rewards.

        See :meth:`rllib_reciprocator.engine.IntrinsicReward.rewards`.
        """
        return {**self.columns, "actions": self.actions, "rewards": self.rewards, "time_left": self.time_left}

    def in_first_episode(self) -> Tensor:
        """Returns a mask of the steps of the first episode of each environment, ``[B, T]`` bool."""
        return before_end(self.ended)

    def to(self, device: torch.device | str) -> RolloutBatch:
        """Returns a copy with all tensors on a device."""
        return _map_columns(lambda column: column.to(device), self)

    def first_environments(self, count: int) -> RolloutBatch:
        """Returns the rollout of the first ``count`` environments."""
        return _map_columns(lambda column: column[:count], self)

    def shard(self, count: int) -> list[RolloutBatch]:
        """Splits the environments into ``count`` contiguous shards of equal size; ``count`` divides B."""
        size = len(self.rewards) // count
        return [
            _map_columns(lambda column, k=k: column[k * size : (k + 1) * size].contiguous(), self) for k in range(count)
        ]

    def split_episodes(self, parts: int) -> RolloutBatch:
        """Splits the steps of each environment into parts of equal length, which become rows of the result.

        Columns per sequence are dropped.

        Args:
            parts: Number of parts; it divides T.

        Returns:
            A rollout of ``B * parts`` rows, with part m of environment b in row ``b * parts + m``.
        """

        def split_steps(column: Tensor) -> Tensor:
            return column.unflatten(1, (parts, -1)).flatten(0, 1)

        def split_module_steps(column: Tensor) -> Tensor:
            return column.unflatten(2, (parts, -1)).transpose(1, 2).flatten(0, 1)

        return RolloutBatch(
            actions=split_steps(self.actions),
            rewards=split_steps(self.rewards),
            terminated=split_steps(self.terminated),
            truncated=split_steps(self.truncated),
            is_first=split_steps(self.is_first),
            time_left=split_steps(self.time_left),
            pool_members=None if self.pool_members is None else split_steps(self.pool_members),
            valid=None if self.valid is None else split_steps(self.valid),
            columns={name: split_steps(column) for name, column in self.columns.items()},
            modules={
                module_id: ModuleColumns({name: split_module_steps(column) for name, column in module.steps.items()})
                for module_id, module in self.modules.items()
            },
            outcomes={name: split_steps(column) for name, column in self.outcomes.items()},
        )

    def get_state(self) -> dict[str, Any]:
        """Returns the columns as nested dicts of arrays, for checkpoints."""
        columns = {name: value for name, value in _as_dict(self).items() if value is not None}
        return tree.map_structure(lambda column: column.cpu().numpy(), columns)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> RolloutBatch:
        """Builds a rollout from the state that :meth:`get_state` returned, or that version 0.1 stored."""
        columns = tree.map_structure(torch.as_tensor, state)
        return _from_version_0_1(columns) if "joint" in columns else _from_dict(columns)


@dataclass
class StepColumns:
    """Columns of a rollout under construction, as lists with one tensor per step."""

    steps: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, **columns: Tensor) -> None:
        """Appends the columns of one step."""
        for name, column in columns.items():
            self.steps.setdefault(name, []).append(column)

    def stacked(self, axis: int) -> dict[str, Tensor]:
        """Stacks the steps of each column along a new axis."""
        return {name: torch.stack(column, axis) for name, column in self.steps.items()}


def concatenate(batches: Sequence[RolloutBatch]) -> RolloutBatch:
    """Concatenates rollouts of the same policies along the environments."""
    if len(batches) == 1:
        return batches[0]
    return _map_columns(lambda *columns: torch.cat(columns), *batches)


def _as_dict(batch: RolloutBatch) -> dict[str, Any]:
    """Returns the columns of a rollout as nested dicts."""
    columns = {column.name: getattr(batch, column.name) for column in fields(batch)}
    columns["modules"] = {module_id: vars(module) for module_id, module in batch.modules.items()}
    return columns


def _from_dict(columns: dict[str, Any]) -> RolloutBatch:
    """Inverts :func:`_as_dict`."""
    modules = {module_id: ModuleColumns(**module) for module_id, module in columns.get("modules", {}).items()}
    return RolloutBatch(**{**columns, "modules": modules})


def _map_columns(function: Callable[..., Tensor], *batches: RolloutBatch) -> RolloutBatch:
    """Applies a function to each column of one or several rollouts; columns that are None stay None."""

    def map_column(*columns: Tensor | None) -> Tensor | None:
        return None if columns[0] is None else function(*columns)

    return _from_dict(tree.map_structure(map_column, *(_as_dict(batch) for batch in batches)))


def _from_version_0_1(state: dict[str, Any]) -> RolloutBatch:
    """Builds a rollout from the columns that version 0.1 stored."""
    joint = dict(state["joint"])
    names = ("actions", "rewards", "terminated", "truncated", "is_first", "time_left", "valid")
    arguments = {name: joint.pop(name) for name in names if name in joint}
    environments = joint.pop("environment", None)
    return RolloutBatch(
        **arguments,
        pool_members=joint.pop("members", None),
        environments=None if environments is None else environments[:, 0],
        columns=joint,
        modules={
            module_id: _module_from_version_0_1(steps, state["streams"].get(module_id, {}))
            for module_id, steps in state["modules"].items()
        },
        outcomes=state["outcomes"],
    )


def _module_from_version_0_1(steps: dict[str, Tensor], sequences: dict[str, Tensor]) -> ModuleColumns:
    module = ModuleColumns(steps)
    prefixes = {f"{Columns.STATE_IN}/": module.memory_before, _LAST: module.last, _FINAL: module.final}
    for name, column in sequences.items():
        for prefix, columns in prefixes.items():
            if name.startswith(prefix):
                columns[name.removeprefix(prefix)] = column
                break
        else:
            module.extra[name] = column
    return module
