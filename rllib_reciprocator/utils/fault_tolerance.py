"""What happens when a learner's process is gone."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.learner.learner import Learner
from ray.rllib.utils.annotations import override

from rllib_reciprocator.utils.ray_internals import answers


class FailFastOnLostLearner(Algorithm):
    """Mixed into an algorithm: its run ends where a learner is lost, with an error that says so.

    RLlib replaces env runners that are lost, but not learners. Its own errors are then about connections, or about
    what it makes of no answer, and a checkpoint that it writes lacks the learners' state without a word.
    """

    @override(Algorithm)
    def step(self) -> dict[str, Any]:
        """One iteration.

        Raises:
            RuntimeError: If a learner is gone.
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
            RuntimeError: If a learner is gone.
        """
        try:
            return super().save_checkpoint(checkpoint_dir)
        finally:
            self._check_learners()

    def _check_learners(self) -> None:
        """Raises RuntimeError if a learner does not answer."""
        group = self.learner_group
        if group.is_local:
            return
        if not all(answer.ok for answer in answers(group, _is_there, 60)):
            raise RuntimeError(
                f"one of {len(group)} learners ended: killed, out of memory, or with its node;"
                " go on from the last checkpoint with --resume, or let max_failures do so"
            )


def _is_there(learner: Learner) -> bool:
    return True
