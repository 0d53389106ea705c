"""Learner connector: advantages with each module's own discount."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.learner import GeneralAdvantageEstimation


class PerModuleGAE(ConnectorV2):
    """Takes the place of RLlib's advantage estimation, which has one gamma and one lambda for all modules."""

    def __init__(self, discounts: Callable[[str], tuple[float, float]]) -> None:
        """Notes whom to ask.

        Args:
            discounts: The gamma and lambda of a module, by its id.
        """
        super().__init__()
        self._discounts = discounts
        self._pieces: dict[tuple[float, float], GeneralAdvantageEstimation] = {}

    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Adds advantages and value targets, once for all modules that share gamma and lambda."""
        alike: dict[tuple[float, float], dict[str, Any]] = defaultdict(dict)
        for module_id, columns in batch.items():
            alike[self._discounts(module_id)][module_id] = columns
        for (gamma, lambda_), part in alike.items():
            if (gamma, lambda_) not in self._pieces:
                self._pieces[gamma, lambda_] = GeneralAdvantageEstimation(gamma=gamma, lambda_=lambda_)
            self._pieces[gamma, lambda_](batch=part, **kwargs)
        return batch
