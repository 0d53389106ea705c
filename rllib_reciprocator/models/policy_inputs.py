"""Columns that policies receive in addition to observations, or predict, as declared in ``model_config``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

# Settings of modules: the policy inputs as dicts, and the names of the intrinsic rewards whose trackers and modules a
# frozen policy needs to act as it was trained.
POLICY_INPUTS, ACTS_WITH = "policy_inputs", "acts_with"


@dataclass(frozen=True)
class PolicyInput:
    """Column that policies observe in addition to observations, or predict.

    Attributes:
        name: Name of the column, ``[.., size]``, which a step tracker provides.
        size: Number of values.
        scale: If set, values are bounded as ``tanh(x / scale)``.
        predicted: If True, policies do not observe the column but predict it from their features.
        loss_coeff: Weight of the loss of the prediction.
        loss_name: Name of this loss in metrics; empty for the name of the column with ``_loss``.
    """

    name: str
    size: int
    scale: float | None = None
    predicted: bool = False
    loss_coeff: float = 0.0
    loss_name: str = ""

    def scaled(self, values: Tensor) -> Tensor:
        """Returns values ``[.., size]`` as policies observe or predict them."""
        return values if self.scale is None else torch.tanh(values / self.scale)

    def as_setting(self) -> dict[str, Any]:
        """Returns the entry of ``model_config``, which contains plain values only."""
        return asdict(self)


def policy_inputs(model_config: Mapping[str, Any]) -> tuple[PolicyInput, ...]:
    """Returns the policy inputs that a module's settings declare.

    Args:
        model_config: Settings of the module; those that version 0.1 stored are translated.
    """
    if POLICY_INPUTS in model_config:
        return tuple(PolicyInput(**setting) for setting in model_config[POLICY_INPUTS])
    inputs = []
    if model_config.get("num_balances"):
        balance = PolicyInput(
            "influence_balance",
            int(model_config["num_balances"]),
            scale=model_config.get("balance_scale", 1.0),
            predicted=model_config.get("balance_use") == "predicts",
            loss_coeff=model_config.get("predict_balance_coeff", 0.0),
            loss_name="balance_loss",
        )
        inputs.append(balance)
    if model_config.get("num_given"):
        inputs.append(PolicyInput("incentives_given", int(model_config["num_given"])))
    return tuple(inputs)
