"""Step trackers: compute policy inputs and additional rollout columns in every environment step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor


class JointStep(NamedTuple):
    """One step of B parallel environments.

    Attributes:
        state: ``[B, *state_shape]``, joint state before the step; None if no tracker needs it.
        obs: ``[B, N, *obs_shape]``, observations before the step.
        actions: ``[B, N]`` int64.
        probs: ``[B, N, A]``, action probabilities of the behavior policies; None if no tracker needs them.
        rewards: ``[B, N]`` float32, extrinsic rewards.
        terminated: ``[B]`` bool, True if the rules ended the episode with this step.
        truncated: ``[B]`` bool, True if the episode reached its horizon with this step.
        time_left: ``[B]`` float32, fraction of the episode that remained before the step, from 1 to ``1 / horizon``.
        members: ``[B, N]`` int64, index of the pool member that played each agent; None if there are no pools.
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
    """Protocol of objects that follow the steps of all environments.

    A tracker keeps state over the steps of an episode. It provides policy inputs, columns of the rollout for the
    learner, and metrics.

    Attributes:
        needs_state: If True, :attr:`JointStep.state` is set.
        needs_probs: If True, :attr:`JointStep.probs` is set.
    """

    needs_state: bool
    needs_probs: bool

    def start(self, where: Tensor | None) -> None:
        """Resets the tracker before the first step of an episode.

        Args:
            where: ``[B]`` bool, environments in which an episode starts; None for all.
        """

    def inputs(self) -> dict[str, Tensor]:
        """Returns policy inputs for the next step in addition to observations, ``[B, N, K]`` by column."""

    def after(self, step: JointStep) -> dict[str, Tensor]:
        """Processes a step and returns the columns to record for it, ``[B, ..]`` by name."""

    def finish(self) -> dict[str, Tensor]:
        """Returns columns of the whole rollout, ``[B, T, ..]`` by name; called after its last step.

        Use it for columns that are not needed during the rollout and faster to compute for many steps at once.
        """

    def log(self, metrics: Any, agents: Sequence[str], joint: Mapping[str, Tensor]) -> None:
        """Logs the tracker's metrics of a rollout.

        Args:
            metrics: The ``MetricsLogger``.
            agents: Names of the N agents.
            joint: Joint columns of the rollout, ``[B, T, ..]``.
        """

    def get_state(self) -> dict[str, Tensor]:
        """Returns the state of the tracker."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state returned by :meth:`get_state`."""
