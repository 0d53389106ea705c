"""Value influence: how much each agent's action was worth to each agent."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Estimates(NamedTuple):
    """What an estimator says of one joint action, before any of it becomes influence.

    Attributes:
        value: ``[.., N]``, of agent i under the joint action: expected reward, and expected future return if the
            estimator has one, already discounted.
        counterfactual_value: ``[.., N, N]`` by ``[j, i]``: the same of agent i with agent j's action marginalised out
            under j's own behaviour.
    """

    value: Tensor
    counterfactual_value: Tensor


def influence(estimates: Estimates) -> Tensor:
    """The value influence of each agent on each, a counterfactual advantage.

    Source: Zhou, Hong and Kao (2024), definition of value influence.

    Args:
        estimates: Values and counterfactual values.

    Returns:
        ``[.., N, N]`` by ``[j, i]``: influence of j on i; the diagonal is j's on itself.
    """
    return estimates.value.unsqueeze(-2) - estimates.counterfactual_value
