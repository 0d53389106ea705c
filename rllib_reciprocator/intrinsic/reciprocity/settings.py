"""Settings of reciprocity and the reciprocal reward of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from rllib_reciprocator.intrinsic.reciprocity.rules import ReciprocalRule, reciprocal_reward, reciprocal_rule
from rllib_reciprocator.utils.distributed import standardized
from rllib_reciprocator.utils.settings import LOSS_MASK, IntrinsicSettings, Settings, Share, Width

# Name of the intrinsic reward, and of the kind of player that has it.
RECIPROCITY, RECIPROCATOR = "reciprocity", "reciprocator"


# Values of ``influence``; other estimators are given by import path.
ESTIMATORS = ("auto", "tabular", "reward", "counterfactual", "transition", "value")


def _known_rule(name: str) -> str:
    """Returns the name of a form of the reward; raises ValueError if there is none."""
    reciprocal_rule(name)
    return name


def _known_estimator(name: str) -> str:
    """Returns the name of an estimator; raises ValueError if it is neither known nor an import path."""
    if name not in ESTIMATORS and ":" not in name:
        raise ValueError(f"should be {', '.join(map(repr, ESTIMATORS))} or module:class of an InfluenceEstimator")
    return name


def scheduled_weight(start: float, end: float, per_iteration: float, iteration: int) -> float:
    """Returns the weight of the reciprocal reward in an iteration: it moves linearly from start to end, up or down.

    Args:
        start: Weight in iteration 0.
        end: Final weight.
        per_iteration: Change per iteration, at least 0.
        iteration: Index of the iteration, from 0.
    """
    change = per_iteration * iteration
    return min(start + change, end) if end >= start else max(start - change, end)


class WeightSchedule(Settings):
    """Linear schedule of a weight from ``start`` to ``end``, up or down by ``per_iteration`` per iteration."""

    start: float
    end: float
    per_iteration: Annotated[float, Field(gt=0.0)]


class ReciprocitySettings(IntrinsicSettings):
    """Settings of reciprocity; :meth:`ReciprocatorConfig.reciprocity` describes each of them.

    Settings that are None are set from the environment (:meth:`for_game`).
    """

    common: ClassVar[tuple[str, ...]] = (
        "influence", "future_weight", "estimator_sees", "estimator_shared", "counterfactual", "uniform_share",
        "estimator_hiddens", "estimator_lr", "estimator_epochs", "estimator_minibatch_size", "estimator_lambda", "tau",
        "warmup_iterations", "buffer_iterations", "update_period_iters", "prior", "exploration", "always_estimate",
    )  # fmt: skip

    defaults_0_1: ClassVar[dict[str, Any]] = {"uniform_share": 0.0}

    reward: Annotated[str, AfterValidator(_known_rule)] | None = None
    weight: float | WeightSchedule | None = None
    balance_decay: Share | None = None
    initial_balance: Annotated[float, Field(ge=0.0)] = 0.0
    normalize: bool = False
    observe_balance: bool | None = None
    balance_scale: Annotated[float, Field(gt=0.0)] = 4.0
    predict_balance_coeff: Annotated[float, Field(ge=0.0)] = 0.0
    influence: Annotated[str, AfterValidator(_known_estimator)] = "auto"
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
        """Restores pickled settings; those of versions in which ``uniform_share`` defaulted to 0 keep the 0.

        From then on the share counts as set, so that copies of the settings (``exclude_unset``) keep it too. Later
        versions store None if the share is not set.
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
        """Returns the settings with the defaults of the environment in place of None.

        In a game with a payoff table the last actions show all that is reciprocated. The defaults are ``petty``, a
        balance of the last step only that is not observed, and the paper's weight for matrix games. In all other
        environments the balance has to summarize the past, and influence on others is debited: the defaults are
        ``petty_payoff``, a balance with decay gamma that the policy observes, and half the paper's weight for Coins.
        Weights grow with ``(N - 1) ** 2``, because the reciprocal reward is a mean over N - 1 other agents, and the
        effect of an action is divided among as many.

        Args:
            has_payoffs: If True, rewards depend on the joint action only.
            num_agents: N.
            gamma: Discount factor.
            lowest_reward: Not used.
        """
        defaults = {
            "reward": "petty" if has_payoffs else "petty_payoff",
            "balance_decay": 0.0 if has_payoffs else gamma,
            "observe_balance": not has_payoffs and not self.predict_balance_coeff,
            "weight": (5.0 if has_payoffs else 0.5) * (num_agents - 1) ** 2,
        }
        return self.model_copy(update={name: value for name, value in defaults.items() if getattr(self, name) is None})

    @property
    def always(self) -> bool:
        """Returns True if influence is estimated even if no agent reciprocates, e.g. for its metrics."""
        return self.always_estimate

    @property
    def rule(self) -> ReciprocalRule:
        """Returns the form of the reciprocal reward; requires :meth:`for_game`."""
        return reciprocal_rule(str(self.reward))

    def weight_at(self, iteration: int) -> float:
        """Returns the weight of the reciprocal reward in an iteration, from 0; requires :meth:`for_game`."""
        if isinstance(self.weight, WeightSchedule):
            return scheduled_weight(self.weight.start, self.weight.end, self.weight.per_iteration, iteration)
        assert self.weight is not None
        return self.weight


def rewards(columns: Mapping[str, Tensor], settings: ReciprocitySettings) -> Tensor:
    """Computes the unweighted reciprocal reward of every agent, as if all agents had these settings.

    Args:
        columns: ``balance`` and ``given``, each ``[B, T, N, N]`` by ``[j, i]``: the balance of i towards j before each
            step, and the influence of j on i in the step as estimated by j; and optionally ``loss_mask``,
            ``[B, T, N]`` bool, the steps over which rewards are standardized.
        settings: The settings.

    Returns:
        ``[B, T, N]``.
    """
    reciprocal = reciprocal_reward(columns["balance"], columns["given"], settings.rule)
    if not settings.normalize:
        return reciprocal
    masks = columns[LOSS_MASK].unbind(-1) if LOSS_MASK in columns else [None] * reciprocal.shape[-1]
    by_agent = zip(reciprocal.unbind(-1), masks, strict=True)
    return torch.stack([standardized(values, mask) for values, mask in by_agent], -1)
