"""What is said when a learner process is gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.utils.annotations import override


@contextmanager
def _telling_of_lost_learners(group: LearnerGroup) -> Iterator[None]:
    """Says of an error that comes from a lost learner what it is; others speak of their connections only.

    RLlib replaces env runners that are lost, but not learners: what they know goes on from a checkpoint.

    Raises:
        RuntimeError: If a learner's process is gone.
    """
    try:
        yield
    except Exception as error:  # without an answer RLlib may stumble over what it makes of none
        if group.is_local:
            raise
        answers = group._worker_manager.foreach_actor("ping", healthy_only=False, timeout_seconds=10)
        if all(answer.ok for answer in answers):
            raise
        raise RuntimeError(
            f"one of {len(group)} learners ended: killed, out of memory, or with its node;"
            " go on from the last checkpoint with --resume, or let max_failures do so"
        ) from error


class TellsOfLostLearners(Algorithm):
    """Mixed into an algorithm: whatever asks its learners for something says it if one of them is gone."""

    @override(Algorithm)
    def step(self) -> dict[str, Any]:
        """One iteration."""
        with _telling_of_lost_learners(self.learner_group):
            return super().step()

    @override(Algorithm)
    def save_checkpoint(self, checkpoint_dir: str) -> Any:
        """Writes a checkpoint."""
        with _telling_of_lost_learners(self.learner_group):
            return super().save_checkpoint(checkpoint_dir)
