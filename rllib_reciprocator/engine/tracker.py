"""What the env runner asks in every step of the games, and the trackers that answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor


class JointStep(NamedTuple):
    """One step of B games.

    Attributes:
        state: ``[B, *state_shape]``, the joint state before the step; None if no tracker needs it.
        obs: ``[B, N, *obs_shape]``, what the agents saw before it.
        actions: ``[B, N]`` int64.
        probs: ``[B, N, A]``, probabilities with which the actions were chosen; None if no tracker needs them.
        rewards: ``[B, N]`` float32, extrinsic.
        terminated: ``[B]`` bool, the rules ended the episode with this step.
        truncated: ``[B]`` bool, the episode reached its horizon with it.
        time_left: ``[B]`` float32, share of the episode's steps that were to come before it, from 1 to ``1 / horizon``.
        members: ``[B, N]`` int64, the pool member that played each agent; None if there are no pools.
    """

    state: Tensor | None
    obs: Tensor
    actions: Tensor
    probs: Tensor | None
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    time_left: Tensor
    members: Tensor | None = None


class StepTracker(Protocol):
    """Keeps something over the steps of an episode that policies see, or that learners need from each step."""

    needs_state: bool
    needs_probs: bool

    def start(self, where: Tensor | None) -> None:
        """Called before the first step of episodes: those of the games ``[B]`` bool, or of all games if None."""

    def inputs(self) -> dict[str, Tensor]:
        """What policies may see beside observations, ``[B, N, K]`` by column."""

    def after(self, step: JointStep) -> dict[str, Tensor]:
        """Called after each step; what is recorded of it, ``[B, ..]`` by column."""

    def finish(self) -> dict[str, Tensor]:
        """Called after the last step of a sample; what is recorded of all its steps, ``[B, T, ..]`` by column.

        For what nobody needs to know before, and is told faster of many steps at once.
        """

    def log(self, metrics: Any, agents: Sequence[str], joint: Mapping[str, Tensor]) -> None:
        """Logs what there is to say of a sample.

        Args:
            metrics: Where to, a ``MetricsLogger``.
            agents: Names of the N agents.
            joint: The sample's columns of joint steps, ``[B, T, ..]``.
        """

    def get_state(self) -> dict[str, Tensor]:
        """What is kept."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` returned."""
