"""Incentives: rewards that agents give each other, as pure functions of tensors.

Source: Yang et al., "Learning to Incentivize Other Learning Agents", NeurIPS 2020. Pairs are always ``[giver,
recipient]``: ``incentives[.., i, j]`` is what i gives j in a step, at once and whatever i owns; the diagonal is zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from rllib_reciprocator.utils.settings import IntrinsicSettings, Rate, Width

# Columns of joint steps: what agents give each other, what each is given, and what giving was drawn with.
INCENTIVES, RECEIVED, NOISE = "incentives", "received", "incentive_noise"


class IncentiveSettings(IntrinsicSettings):
    """How incentives are given, and learned; the defaults are the paper's for Escape Room.

    Attributes:
        max_incentive: The most that one gives another in a step (R_max).
        hiddens: Widths of the hidden layers of incentive functions.
        told_actions: Names of the others' actions that incentive functions tell apart, as ``[clean]``; all if None.
        observe_given: Whether policies and incentive functions see what their agent has given each other agent so far.
        charge_giver: Whether what one gives is taken off what one's own policy learns from.
        lr: Learning rate of incentive functions, by Adam; a number, or a schedule by joint steps.
        cost_coeff: Weight of what is given, as a share of the most that can be, in the loss of incentive functions; a
            number, or a schedule by joint steps.
        cost_lr: Learning rate of an Adam of its own for that cost, whose weight then does not matter as long as it is
            not 0; None for one Adam for both.
        critic_lr: Learning rate of the critics of givers' own extrinsic rewards, by Adam, where policies have critics.
        critic_epochs: Their gradient steps in an update.
        learned_by: Looking through the recipients' steps, or as a continuous action: what is given is then drawn around
            what incentive functions say, and these learn from their givers' own advantages.
        opponents: Whether givers know the others' policies, or model them by what they see them do.
        opponent_hiddens: Widths of the hidden layers of these models.
        opponent_lr: Their learning rate, by Adam.
        opponent_epochs: Their gradient steps on each sample.
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
    """What each agent is given by all others, ``[.., N]``.

    Args:
        incentives: ``[.., N, N]`` by ``[i, j]``, what i gives j.
    """
    return incentives.sum(-2)


def rewards(joint: Mapping[str, Tensor], settings: IncentiveSettings) -> Tensor:
    """What giving costs every agent's policy, as if all had these settings: nothing, unless givers are charged.

    Args:
        joint: ``incentives``, ``[B, T, N, N]`` by ``[i, j]``, what i gives j.
        settings: The settings.

    Returns:
        ``[B, T, N]``, none above zero.
    """
    given = joint[INCENTIVES].sum(-1)
    return -given if settings.charge_giver else torch.zeros_like(given)
