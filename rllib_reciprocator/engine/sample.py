"""Rollouts as columns of tensors, which env runners return instead of RLlib's episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
import tree
from ray.rllib.core.columns import Columns
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from torch import Tensor

from rllib_reciprocator.engine.masks import VALID, before_end

# Ids of the parts of a MultiAgentBatch in addition to RLModule ids.
JOINT = "joint"
STREAMS_PREFIX = "streams/"
# Prefixes of columns per sequence: a module's inputs after the last step of the rollout, and after the last step of
# episodes that were truncated at the horizon.
LAST, FINAL = "last/", "final/"
# Joint column, [B, T] int64: index of the environment, unique among all env runners.
ENVIRONMENT = "environment"


@dataclass(repr=False)
class Sample:
    """Rollout of T steps of B parallel environments.

    Environments are reset after the end of an episode, and an episode that is not over at the end of a rollout
    continues in the next one. The T steps of an agent in an environment are therefore a sequence of consecutive
    episodes; ``joint["is_first"]`` marks their first steps.

    The class is a dataclass instead of a tuple, so that RLlib's tree functions handle it as one object.

    Attributes:
        modules: Columns per step of each trained module, ``[B, S, T, ..]`` by module id and name: observations,
            actions, log-probabilities, distribution inputs, and inputs from trackers. S is the number of agents that
            the module plays.
        streams: Columns per sequence of each trained module, ``[B, S, ..]`` by module id and name: recurrent state
            before the first step (``state_in/..``); inputs after the last step (``last/..``); if required by the
            learner, last inputs of truncated episodes (``final/..``, ``[B, S, K, ..]``, the k-th for steps
            ``k * horizon`` to ``(k + 1) * horizon``); and for evolution strategies the perturbation that played
            (``perturbation/..``).
        joint: Joint columns, i.e. columns per environment step, ``[B, T, ..]`` by name: ``actions`` int64 and extrinsic
            ``rewards``, both ``[B, T, N]``; ``terminated``, ``truncated`` and ``is_first`` bool; ``time_left``; columns
            recorded by trackers; with pools ``members [B, T, N]`` int64, the index of the pool member that played each
            agent; and if only the first episode of each environment counts ``valid [B, T]`` bool, its steps.
        outcomes: Events of each step that the environment reports, ``[B, T, N]`` by name.
    """

    modules: dict[str, dict[str, Tensor]]
    streams: dict[str, dict[str, Tensor]]
    joint: dict[str, Tensor]
    outcomes: dict[str, Tensor]

    @property
    def ended(self) -> Tensor:
        """Ends of episodes, ``[B, T]`` bool: True if an episode was terminated or truncated with the step."""
        return self.joint["terminated"] | self.joint["truncated"]

    @property
    def rewards(self) -> Tensor:
        """Extrinsic rewards, ``[B, T, N]`` float32."""
        return self.joint["rewards"]

    def env_steps(self) -> int:
        """Returns the number of environment steps that count."""
        valid = self.joint.get(VALID)
        return self.joint["terminated"].numel() if valid is None else int(valid.sum())

    def agent_steps(self) -> int:
        """Returns the number of agent steps that count."""
        return self.env_steps() * self.rewards.shape[-1]

    def __len__(self) -> int:
        return self.env_steps()

    def __repr__(self) -> str:
        """Returns the sizes of the rollout."""
        environments, steps, agents = self.rewards.shape
        return f"Sample({environments} environments, {steps} steps, {agents} agents)"

    def in_first_episode(self) -> Tensor:
        """Returns a mask of the steps of the first episode of each environment, ``[B, T]`` bool."""
        return before_end(self.ended)

    def to(self, device: torch.device | str) -> Sample:
        """Returns a copy with all tensors on a device."""
        return _mapped(lambda column: column.to(device), self)

    def first_games(self, count: int) -> Sample:
        """Returns the rollout of the first ``count`` environments."""
        return _mapped(lambda column: column[:count], self)

    def split(self, parts: int) -> Sample:
        """Splits the steps of each environment into parts of equal length, which become rows of the result.

        Columns per sequence are dropped.

        Args:
            parts: Number of parts; it divides T.

        Returns:
            A rollout of ``B * parts`` rows, with part m of environment b in row ``b * parts + m``.
        """
        joint, outcomes = (
            {name: column.unflatten(1, (parts, -1)).flatten(0, 1) for name, column in columns.items()}
            for columns in (self.joint, self.outcomes)
        )
        modules = {
            module_id: {
                name: column.unflatten(2, (parts, -1)).transpose(1, 2).flatten(0, 1) for name, column in columns.items()
            }
            for module_id, columns in self.modules.items()
        }
        return Sample(modules=modules, streams={}, joint=joint, outcomes=outcomes)

    def to_batch(self) -> MultiAgentBatch:
        """Converts the rollout to RLlib's batch of rows.

        Rows are ordered as ``(b * S + s) * T + t``, so that contiguous shards contain whole environments if the number
        of learners divides B.

        Returns:
            Batch with one part for each trained module, one for its columns per sequence (``STREAMS_PREFIX`` + module
            id), and one for the joint columns (``JOINT``).
        """
        parts = {JOINT: SampleBatch({name: column.flatten(0, 1) for name, column in self.joint.items()})}
        for module_id, columns in self.modules.items():
            parts[module_id] = SampleBatch({name: column.flatten(0, 2) for name, column in columns.items()})
            streams = {name: column.flatten(0, 1) for name, column in self.streams[module_id].items()}
            parts[STREAMS_PREFIX + module_id] = SampleBatch(streams)
        return MultiAgentBatch(parts, self.joint["terminated"].numel())


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


def concatenate(samples: list[Sample]) -> Sample:
    """Concatenates rollouts of the same policies along the environments."""
    if len(samples) == 1:
        return samples[0]
    return _mapped(lambda *columns: torch.cat(columns), *samples)


def state_in(columns: dict[str, Any]) -> dict[str, Any]:
    """Selects the recurrent state from columns per sequence, by name; empty for modules without one."""
    prefix = f"{Columns.STATE_IN}/"
    return {name.removeprefix(prefix): value for name, value in columns.items() if name.startswith(prefix)}


def _mapped(function: Callable[..., Tensor], *samples: Sample) -> Sample:
    """Applies a function to each column of one or several rollouts."""
    return Sample(*(tree.map_structure(function, *columns) for columns in zip(*map(_columns, samples), strict=True)))


def _columns(sample: Sample) -> list[dict[str, Any]]:
    return [getattr(sample, column_group.name) for column_group in fields(sample)]
