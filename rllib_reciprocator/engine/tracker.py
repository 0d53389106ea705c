"""Step trackers: compute policy inputs and additional rollout columns in every environment step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from ray.rllib.utils.metrics.metrics_logger import MetricsLogger


class JointStep(NamedTuple):
    """One step of B parallel environments.

    Attributes:
        state: ``[B, *state_shape]``, joint state before the step; None if no tracker needs it.
        obs: ``[B, N, *obs_shape]``, observations before the step.
        actions: ``[B, N]`` int64.
        probs: ``[B, N, A]``, action probabilities of the behavior policies; None if no tracker needs them.
        rewards: ``[B, N]`` float32, extrinsic.
        terminated: ``[B]`` bool, True if the rules ended the episode with this step.
        truncated: ``[B]`` bool, True if the episode reached its horizon with this step.
        time_left: ``[B]`` float32, fraction of the episode that remained before the step, from 1 to ``1 / horizon``.
        pool_members: ``[B, N]`` int64, index of the pool member that played each agent; None if there are no pools.
    """

    state: Tensor | None
    obs: Tensor
    actions: Tensor
    probs: Tensor | None
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    time_left: Tensor
    pool_members: Tensor | None = None


class StepTracker:
    """Base class of objects that follow the steps of all environments.

    A tracker keeps state over the steps of an episode. It provides policy inputs, columns of the rollout for the
    learner, and metrics.

    Attributes:
        needs_state: If True, :attr:`JointStep.state` is set.
        needs_probs: If True, :attr:`JointStep.probs` is set.
    """

    needs_state: bool = False
    needs_probs: bool = False

    def begin(self) -> None:
        """Prepares for a rollout. Columns of an earlier rollout that failed before :meth:`finish` are dropped."""

    def start(self, where: Tensor | None) -> None:
        """Resets the tracker before the first step of an episode.

        Args:
            where: ``[B]`` bool, environments in which an episode starts; None for all.
        """

    def inputs(self) -> dict[str, Tensor]:
        """Returns policy inputs for the next step in addition to observations, ``[B, N, K]`` by column."""
        return {}

    def after(self, step: JointStep) -> dict[str, Tensor]:
        """Processes a step and returns the columns to record for it, ``[B, ..]`` by name."""
        return {}

    def finish(self) -> dict[str, Tensor]:
        """Returns columns of the whole rollout, ``[B, T, ..]`` by name; called after its last step.

        Use it for columns that are not needed during the rollout and faster to compute for many steps at once.
        """
        return {}

    def log(
        self, metrics: MetricsLogger, agents: Sequence[str], columns: Mapping[str, Tensor], members: Tensor | None
    ) -> None:
        """Logs the tracker's metrics of a rollout.

        Args:
            metrics: Logger of the env runner.
            agents: Names of the N agents.
            columns: Columns of trackers and ``actions``, ``[B, T, ..]`` by name; if steps do not count, those that
                do, ``[1, steps, ..]``.
            members: ``[B, T, N]`` int64, indices of the pool members; None without pools.
        """

    def get_state(self) -> dict[str, Any]:
        """Returns the state of the tracker."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state that :meth:`get_state` returned."""
