"""Algorithm mixin that ends a run when a learner process is lost."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.learner.learner import Learner
from ray.rllib.utils.annotations import override

from rllib_reciprocator.utils.ray_internals import answers


class FailFastOnLostLearner(Algorithm):
    """Algorithm mixin that raises an error if a learner process is lost.

    RLlib restarts lost env runners, but not lost learners. Its own errors are then about connections or missing
    results, and checkpoints that it writes lack the state of the learners without a warning.
    """

    @override(Algorithm)
    def step(self) -> dict[str, Any]:
        """Runs one training iteration.

        Raises:
            RuntimeError: If a learner process is lost.
        """
        try:
            return super().step()
        except Exception:
            self._check_learners()
            raise

    @override(Algorithm)
    def save_checkpoint(self, checkpoint_dir: str) -> Any:
        """Writes a checkpoint.

        Raises:
            RuntimeError: If a learner process is lost.
        """
        try:
            return super().save_checkpoint(checkpoint_dir)
        finally:
            self._check_learners()

    def _check_learners(self) -> None:
        """Raises RuntimeError if a learner does not respond."""
        group = self.learner_group
        if group.is_local:
            return
        if not all(answer.ok for answer in answers(group, _is_there, 60)):
            raise RuntimeError(
                f"one of {len(group)} learners was lost: it was killed, ran out of memory, or its node failed;"
                " continue from the last checkpoint with --resume, or set max_failures"
            )


def _is_there(learner: Learner) -> bool:
    return True
