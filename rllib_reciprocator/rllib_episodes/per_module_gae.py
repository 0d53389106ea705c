"""Learner connector that computes GAE advantages with the gamma and lambda of each module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.learner import GeneralAdvantageEstimation


class PerModuleGAE(ConnectorV2):
    """Learner connector that replaces RLlib's ``GeneralAdvantageEstimation``.

    RLlib's connector uses one gamma and one lambda for all modules.
    """

    def __init__(self, discounts: Callable[[str], tuple[float, float]]) -> None:
        """Initializes the connector.

        Args:
            discounts: Function that returns gamma and lambda of a module id.
        """
        super().__init__()
        self._discounts = discounts
        self._pieces: dict[tuple[float, float], GeneralAdvantageEstimation] = {}

    def __call__(self, *, batch: dict[str, Any], **kwargs: object) -> dict[str, Any]:
        """Adds advantages and value targets to the batch, with one call for all modules of equal gamma and lambda."""
        batches: dict[tuple[float, float], dict[str, Any]] = defaultdict(dict)
        for module_id, columns in batch.items():
            batches[self._discounts(module_id)][module_id] = columns
        for (gamma, lambda_), module_batch in batches.items():
            if (gamma, lambda_) not in self._pieces:
                self._pieces[gamma, lambda_] = GeneralAdvantageEstimation(gamma=gamma, lambda_=lambda_)
            self._pieces[gamma, lambda_](batch=module_batch, **kwargs)
        return batch
