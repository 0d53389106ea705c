"""What a rollout of many games yields: columns, no episode objects."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from torch import Tensor

# Ids of the parts of a MultiAgentBatch that are no RLModule's own.
JOINT = "joint"
BOOTSTRAP_PREFIX = "bootstrap/"


@dataclass(repr=False)
class ColumnarSample:
    """T steps of B games. Not a tuple, so that RLlib's tree functions take it as one object.

    Attributes:
        seats: Columns of each learning player, by the id of its module: observations, actions, log-probabilities and
            distribution inputs, each ``[B, T, ..]``.
        last: What each learning player sees after the last step, ``[B, ..]`` by column.
        state: ``[B, T, ..]``, what the influence estimator sees before each step: the joint state, or observations.
        time_left: ``[B, T]``, share of the episode's steps that are to come with this one.
        actions: ``[B, T, N]`` int64.
        rewards: ``[B, T, N]`` float32, extrinsic.
        influence: ``[B, T, N, N]`` by ``[j, i]``: influence of j on i in each step, as i takes it to be.
        given: The same as j takes it to be.
        balance: ``[B, T, N, N]`` by ``[j, i]``: i's balance towards j before each step.
        terminated: ``[B, T]`` bool, the rules ended the episode with this step.
        truncated: ``[B, T]`` bool, the episode reached its horizon with this step.
        outcomes: The game's outcomes summed over the steps, ``[B, N]`` by name.
    """

    seats: dict[str, dict[str, Tensor]]
    last: dict[str, dict[str, Tensor]]
    state: Tensor
    time_left: Tensor
    actions: Tensor
    rewards: Tensor
    influence: Tensor
    given: Tensor
    balance: Tensor
    terminated: Tensor
    truncated: Tensor
    outcomes: dict[str, Tensor]

    def env_steps(self) -> int:
        """Joint steps in this sample."""
        return self.terminated.numel()

    def agent_steps(self) -> int:
        """Steps of single agents in this sample."""
        return self.rewards.numel()

    def __len__(self) -> int:
        return self.env_steps()

    def __repr__(self) -> str:
        """Its sizes."""
        games, steps, agents = self.rewards.shape
        return f"ColumnarSample({games} games, {steps} steps, {agents} agents)"

    def to_batch(self) -> MultiAgentBatch:
        """As rows ``b * T + t``: contiguous shards of any number of learners that divides B keep whole games.

        Besides a batch for each learning module there is one with the joint columns (``JOINT``), and one a module
        with what it sees after the last step (``BOOTSTRAP_PREFIX`` + module id), which has a row a game.
        """
        parts = {JOINT: SampleBatch({name: getattr(self, name).flatten(0, 1) for name in _joint_columns()})}
        for module_id, columns in self.seats.items():
            parts[module_id] = SampleBatch({name: column.flatten(0, 1) for name, column in columns.items()})
            parts[BOOTSTRAP_PREFIX + module_id] = SampleBatch(self.last[module_id])
        return MultiAgentBatch(parts, self.env_steps())


def concatenate(samples: list[ColumnarSample]) -> ColumnarSample:
    """Samples of the same players side by side along the games."""
    if len(samples) == 1:
        return samples[0]

    def nested(name: str) -> dict[str, dict[str, Tensor]]:
        parts = [getattr(sample, name) for sample in samples]
        return {
            module_id: {column: torch.cat([part[module_id][column] for part in parts]) for column in columns}
            for module_id, columns in parts[0].items()
        }

    return ColumnarSample(
        nested("seats"),
        nested("last"),
        **{name: torch.cat([getattr(sample, name) for sample in samples]) for name in _joint_columns()},
        outcomes={name: torch.cat([sample.outcomes[name] for sample in samples]) for name in samples[0].outcomes},
    )


def _joint_columns() -> list[str]:
    """The columns that are a tensor ``[B, T, ..]`` each."""
    return [field.name for field in fields(ColumnarSample) if field.name not in ("seats", "last", "outcomes")]
