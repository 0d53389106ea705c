"""Incentives: rewards that agents give each other, as pure functions of tensors.

Source: Yang et al., "Learning to Incentivize Other Learning Agents", NeurIPS 2020. Pairs are always ``[giver,
recipient]``: ``incentives[.., i, j]`` is the incentive that i gives j in a step. It is received in the same step, and
not limited by what i owns. The diagonal is zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from rllib_reciprocator.utils.settings import IntrinsicSettings, Rate, Width

# Columns of the batch: incentives by pair, incentives received, and the noise that incentives are sampled with.
INCENTIVES, RECEIVED, NOISE = "incentives", "received", "incentive_noise"
# Column of the batch and policy input, [.., N - 1]: sum of the incentives that the agent has given to each agent after
# it earlier in the episode.
GIVEN = "incentives_given"


class IncentiveSettings(IntrinsicSettings):
    """Settings of incentives and of training incentive functions; the defaults are the paper's for Escape Room.

    Attributes:
        max_incentive: Maximum incentive of one agent for another per step (R_max).
        hiddens: Widths of the hidden layers of incentive functions.
        told_actions: Names of the other agents' actions that incentive functions distinguish, e.g. ``[clean]``; all
            actions if None.
        observe_given: If True, policies and incentive functions observe the sum of the incentives that their agent has
            given each other agent so far in the episode.
        charge_giver: If True, given incentives are subtracted from the rewards that the giver's policy is trained on.
        lr: Learning rate of incentive functions (Adam); a number, or a schedule by environment steps.
        cost_coeff: Weight of the cost of given incentives, as a share of the maximum, in the loss of incentive
            functions; a number, or a schedule by environment steps.
        cost_lr: Learning rate of a separate Adam optimizer for this cost; its weight has then no effect unless it is 0.
            None for one optimizer for the whole loss.
        critic_lr: Learning rate of the critics of the givers' extrinsic rewards (Adam), used if policies have critics.
        critic_epochs: Gradient steps of these critics per update.
        learned_by: ``look_ahead`` differentiates through the recipients' policy updates. ``policy_gradient`` treats
            giving as a continuous action: incentives are sampled around the outputs of incentive functions, which are
            trained on the advantages of the giver.
        opponents: ``known`` if givers know the other agents' policies; ``modelled`` if they model them from the actions
            that they observe.
        opponent_hiddens: Widths of the hidden layers of these models.
        opponent_lr: Learning rate of these models (Adam).
        opponent_epochs: Gradient steps of these models per rollout.
    """

    common: ClassVar[tuple[str, ...]] = (
        "max_incentive", "hiddens", "told_actions", "observe_given", "charge_giver", "lr", "cost_coeff", "cost_lr",
        "critic_lr", "critic_epochs", "learned_by", "opponents", "opponent_hiddens", "opponent_lr", "opponent_epochs",
    )  # fmt: skip

    max_incentive: Annotated[float, Field(gt=0.0, le=1e6)] = 2.0
    hiddens: Annotated[list[Width], Field(default_factory=lambda: [64, 16], min_length=1, max_length=8)]
    told_actions: Annotated[list[str], Field(min_length=1)] | None = None
    observe_given: bool = False
    charge_giver: bool = False
    lr: Rate = 1e-3
    cost_coeff: Rate = 1.0
    cost_lr: Rate | None = 1e-4
    critic_lr: Rate = 3e-3
    critic_epochs: Annotated[int, Field(ge=1, le=10_000)] = 1
    learned_by: Literal["look_ahead", "policy_gradient"] = "look_ahead"
    opponents: Literal["known", "modelled"] = "known"
    opponent_hiddens: Annotated[list[Width], Field(default_factory=lambda: [64, 32], min_length=1, max_length=8)]
    opponent_lr: Rate = 0.01
    opponent_epochs: Annotated[int, Field(ge=1, le=10_000)] = 5


def received(incentives: Tensor) -> Tensor:
    """Computes the sum of the incentives that each agent receives, ``[.., N]``.

    Args:
        incentives: ``[.., N, N]`` by ``[i, j]``, incentive that i gives j.
    """
    return incentives.sum(-2)


def rewards(columns: Mapping[str, Tensor], settings: IncentiveSettings) -> Tensor | None:
    """Computes the cost of given incentives for every agent, as if all agents had these settings.

    Args:
        columns: ``incentives``, ``[B, T, N, N]`` by ``[i, j]``, incentive that i gives j.
        settings: The settings.

    Returns:
        ``[B, T, N]``, at most zero; None unless ``charge_giver`` is True.
    """
    return -columns[INCENTIVES].sum(-1) if settings.charge_giver else None
