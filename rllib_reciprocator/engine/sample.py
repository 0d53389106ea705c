"""What the env runner samples: streams of steps as columns, no episode objects."""

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

# Ids of the parts of a MultiAgentBatch that are no RLModule's own.
JOINT = "joint"
STREAMS_PREFIX = "streams/"
# Columns of the streams of a module that are not a step's: what is seen after the last step, and after the last step of
# an episode that was cut off at its horizon.
LAST, FINAL = "last/", "final/"
# Column of joint steps, [B, T] int64: the index of the environment, unique among all env runners.
ENVIRONMENT = "environment"


@dataclass(repr=False)
class Sample:
    """T steps of B games. Not a tuple, so that RLlib's tree functions take it as one object.

    A game that ends starts anew with the next step, and a game that is under way at the end of one sample goes on in
    the next. So each row is a stream of steps in which episodes follow each other; ``joint["is_first"]`` says where
    they begin.

    Attributes:
        modules: Columns of the steps of each learning module, ``[B, S, T, ..]`` by its id and column: observations,
            actions, log-probabilities, distribution inputs, and what trackers show. S is how many agents it plays.
        streams: Columns of whole streams, ``[B, S, ..]`` by module id and column: its memory before the first step
            (``state_in/..``), what it sees after the last (``last/..``), if the learner asks for it what it saw at the
            end of episodes that were cut off (``final/..``, ``[B, S, K, ..]``, the k-th in steps ``k * horizon`` to
            ``(k + 1) * horizon``), and where perturbations of it played, of which (``perturbation/..``).
        joint: Columns of joint steps, ``[B, T, ..]``: ``actions`` int64 and extrinsic ``rewards`` ``[B, T, N]``,
            ``terminated``, ``truncated`` and ``is_first`` bool, ``time_left``, what trackers record; with pools
            ``members [B, T, N]`` int64, the pool member that played each agent; and where only the first episode of
            each environment counts ``valid [B, T]`` bool, the steps before its end.
        outcomes: What happened in each step, ``[B, T, N]`` by name.
    """

    modules: dict[str, dict[str, Tensor]]
    streams: dict[str, dict[str, Tensor]]
    joint: dict[str, Tensor]
    outcomes: dict[str, Tensor]

    @property
    def ended(self) -> Tensor:
        """``[B, T]`` bool, whether an episode ended with the step."""
        return self.joint["terminated"] | self.joint["truncated"]

    @property
    def rewards(self) -> Tensor:
        """``[B, T, N]`` float32, extrinsic."""
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
        """Its sizes."""
        games, steps, agents = self.rewards.shape
        return f"Sample({games} games, {steps} steps, {agents} agents)"

    def in_first_episode(self) -> Tensor:
        """``[B, T]`` bool, whether a step is of the first episode in its row."""
        return before_end(self.ended)

    def to(self, device: torch.device | str) -> Sample:
        """The same with all tensors on a device."""
        return _mapped(lambda column: column.to(device), self)

    def first_games(self, count: int) -> Sample:
        """That many games of it."""
        return _mapped(lambda column: column[:count], self)

    def split(self, parts: int) -> Sample:
        """The steps of each game in so many parts, as games of their own: part m of game b in row ``b * parts + m``.

        Without the columns of whole streams.
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
        """As rows ``(b * S + s) * T + t``: contiguous shards of learners whose number divides B are whole games.

        Besides a batch for each learning module there is one with the joint columns (``JOINT``), and one a module with
        the columns of its streams (``STREAMS_PREFIX`` + module id).
        """
        parts = {JOINT: SampleBatch({name: column.flatten(0, 1) for name, column in self.joint.items()})}
        for module_id, columns in self.modules.items():
            parts[module_id] = SampleBatch({name: column.flatten(0, 2) for name, column in columns.items()})
            streams = {name: column.flatten(0, 1) for name, column in self.streams[module_id].items()}
            parts[STREAMS_PREFIX + module_id] = SampleBatch(streams)
        return MultiAgentBatch(parts, self.joint["terminated"].numel())


@dataclass
class StepColumns:
    """Columns of some streams under construction, a tensor a step."""

    steps: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, **columns: Tensor) -> None:
        """Adds a step's."""
        for name, column in columns.items():
            self.steps.setdefault(name, []).append(column)

    def stacked(self, axis: int) -> dict[str, Tensor]:
        """All steps along a new axis."""
        return {name: torch.stack(column, axis) for name, column in self.steps.items()}


def concatenate(samples: list[Sample]) -> Sample:
    """Samples of the same players side by side along the games."""
    if len(samples) == 1:
        return samples[0]
    return _mapped(lambda *columns: torch.cat(columns), *samples)


def state_in(columns: dict[str, Any]) -> dict[str, Any]:
    """The memory among columns of streams, by name; empty if there is none."""
    prefix = f"{Columns.STATE_IN}/"
    return {name.removeprefix(prefix): value for name, value in columns.items() if name.startswith(prefix)}


def _mapped(function: Callable[..., Tensor], *samples: Sample) -> Sample:
    """What a function makes of each column of some samples."""
    return Sample(*(tree.map_structure(function, *columns) for columns in zip(*map(_columns, samples), strict=True)))


def _columns(sample: Sample) -> list[dict[str, Any]]:
    return [getattr(sample, each.name) for each in fields(sample)]
