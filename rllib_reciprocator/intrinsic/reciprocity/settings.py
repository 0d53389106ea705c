"""Settings of reciprocity, and the reward that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from rllib_reciprocator.intrinsic.reciprocity.rules import REWARDS, ReciprocalRule, reciprocal_reward
from rllib_reciprocator.intrinsic.registry import LOSS_MASK
from rllib_reciprocator.utils.distributed import standardized
from rllib_reciprocator.utils.settings import IntrinsicSettings, Settings, Share, Width


def scheduled_weight(start: float, end: float, per_iteration: float, iteration: int) -> float:
    """The weight of the reciprocal reward at an iteration: from start to end by a fixed step, up or down.

    Args:
        start: Weight at iteration 0.
        end: Weight that is kept once reached.
        per_iteration: Size of the step, at least 0.
        iteration: The iteration, from 0.
    """
    moved = per_iteration * iteration
    return min(start + moved, end) if end >= start else max(start - moved, end)


class WeightSchedule(Settings):
    """A weight that moves from ``start`` to ``end`` by ``per_iteration`` an iteration, up or down."""

    start: float
    end: float
    per_iteration: Annotated[float, Field(gt=0.0)]


class ReciprocitySettings(IntrinsicSettings):
    """How Reciprocators reciprocate; :meth:`ReciprocatorConfig.reciprocity` says what each setting means.

    What is None follows from the game (:meth:`for_game`).
    """

    common: ClassVar[tuple[str, ...]] = (
        "influence", "future_weight", "estimator_sees", "estimator_shared", "counterfactual", "uniform_share",
        "estimator_hiddens", "estimator_lr", "estimator_epochs", "estimator_minibatch_size", "estimator_lambda", "tau",
        "warmup_iterations", "buffer_iterations", "update_period_iters", "prior", "exploration", "always_estimate",
    )  # fmt: skip

    reward: Literal[tuple(REWARDS)] | None = None  # type: ignore[valid-type]
    weight: float | WeightSchedule | None = None
    balance_decay: Share | None = None
    initial_balance: Annotated[float, Field(ge=0.0)] = 0.0
    normalize: bool = False
    observe_balance: bool | None = None
    balance_scale: Annotated[float, Field(gt=0.0)] = 4.0
    predict_balance_coeff: Annotated[float, Field(ge=0.0)] = 0.0
    influence: Literal["auto", "tabular", "reward", "counterfactual", "transition", "value"] = "auto"
    future_weight: Annotated[float, Field(ge=0.0)] = 0.0
    estimator_sees: Literal["state", "observations", "own"] = "state"
    estimator_shared: bool = False
    counterfactual: Literal["policy", "modelled", "uniform"] | None = None
    uniform_share: Share | None = None
    estimator_hiddens: Annotated[list[Width], Field(default_factory=lambda: [64, 64], min_length=1, max_length=8)]
    estimator_lr: Annotated[float, Field(gt=0.0)] = 0.005
    estimator_epochs: Annotated[int, Field(ge=1)] = 2
    estimator_minibatch_size: Annotated[int, Field(ge=1)] = 4096
    estimator_lambda: Share = 0.9
    tau: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    warmup_iterations: Annotated[int, Field(ge=0)] = 0
    buffer_iterations: Annotated[int, Field(ge=1)] = 1
    update_period_iters: Annotated[int, Field(ge=1)] = 1
    prior: Annotated[float, Field(gt=0.0)] = 1.0
    exploration: Share = 0.0
    always_estimate: bool = False

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Restores pickled settings; those of versions whose ``uniform_share`` defaulted to 0 keep that 0.

        It counts as given from then on, so that settings made from these (``exclude_unset``) keep it too. Settings that
        leave the share open hold None.
        """
        share = state["__dict__"].get("uniform_share", 0.0)
        if share is not None:
            fields_set = {*state["__pydantic_fields_set__"], "uniform_share"}
            values = {**state["__dict__"], "uniform_share": share}
            state = {**state, "__dict__": values, "__pydantic_fields_set__": fields_set}
        super().__setstate__(state)

    def for_game(
        self, *, has_payoffs: bool, num_agents: int, gamma: float, lowest_reward: float | None = None
    ) -> ReciprocitySettings:
        """The settings with everything decided that follows from the game.

        In a game with a payoff table what is to be answered is seen in the last actions: ``petty``, the last step
        alone, the paper's weight for matrix games, and no balance shown. In any other the balance has to keep what
        happened, and what one gave is debited: ``petty_payoff``, kept as rewards are discounted, shown to the policy,
        and half the paper's weight for Coins. Weights grow as ``(N - 1) ** 2``: each of N - 1 others is that share of
        the mean that a Reciprocator is paid for, and what one's action does to the others is shared among as many.

        Args:
            has_payoffs: Whether rewards follow from the joint action alone.
            num_agents: N.
            gamma: The discount of rewards.
            lowest_reward: Not used.
        """
        by_game = {
            "reward": "petty" if has_payoffs else "petty_payoff",
            "balance_decay": 0.0 if has_payoffs else gamma,
            "observe_balance": not has_payoffs and not self.predict_balance_coeff,
            "weight": (5.0 if has_payoffs else 0.5) * (num_agents - 1) ** 2,
        }
        return self.model_copy(update={name: value for name, value in by_game.items() if getattr(self, name) is None})

    @property
    def always(self) -> bool:
        """Whether influence is estimated for whoever looks on."""
        return self.always_estimate

    @property
    def rule(self) -> ReciprocalRule:
        """The form of the reciprocal reward; the game has to be known."""
        return REWARDS[str(self.reward)]

    def weight_at(self, iteration: int) -> float:
        """The weight of the reciprocal reward at an iteration, from 0; the game has to be known."""
        if isinstance(self.weight, WeightSchedule):
            return scheduled_weight(self.weight.start, self.weight.end, self.weight.per_iteration, iteration)
        assert self.weight is not None
        return self.weight


def rewards(joint: Mapping[str, Tensor], settings: ReciprocitySettings) -> Tensor:
    """The reciprocal reward of every agent, as if all had these settings, before it is weighted.

    Args:
        joint: ``balance`` and ``given``, each ``[B, T, N, N]`` by ``[j, i]``: the balance of i towards j before each
            step, and the influence of j on i in it as j takes it to be; and ``loss_mask``, ``[B, T, N]`` bool, the
            steps over which rewards are standardised, if not all.
        settings: The settings.

    Returns:
        ``[B, T, N]``.
    """
    reciprocal = reciprocal_reward(joint["balance"], joint["given"], settings.rule)
    if not settings.normalize:
        return reciprocal
    masks = joint[LOSS_MASK].unbind(-1) if LOSS_MASK in joint else [None] * reciprocal.shape[-1]
    by_agent = zip(reciprocal.unbind(-1), masks, strict=True)
    return torch.stack([standardized(values, mask) for values, mask in by_agent], -1)
