"""Typed settings of the Reciprocator algorithm: types, ranges and defaults, each written once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from rllib_reciprocator.rewards import REWARDS, scheduled_weight

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class WeightSchedule(_Settings):
    """A weight that moves from ``start`` to ``end`` by ``per_iteration`` an iteration, up or down."""

    start: float
    end: float
    per_iteration: Annotated[float, Field(gt=0.0)]


class ReciprocitySettings(_Settings):
    """What :meth:`ReciprocatorConfig.reciprocity` sets; its docstring says what each setting means."""

    reward: Literal[tuple(REWARDS)] = "petty"  # type: ignore[valid-type]
    weight: float | WeightSchedule = 5.0
    balance_decay: Share = 0.0
    normalize: bool = False
    observe_balance: bool | None = None
    balance_scale: Annotated[float, Field(gt=0.0)] = 4.0
    influence: Literal["auto", "tabular", "reward", "counterfactual", "transition"] = "auto"
    future_weight: Annotated[float, Field(ge=0.0)] = 0.0
    counterfactual: Literal["policy", "uniform"] = "policy"
    estimator_hiddens: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)] = [64, 64]
    estimator_lr: Annotated[float, Field(gt=0.0)] = 0.005
    estimator_epochs: Annotated[int, Field(ge=1)] = 2
    estimator_minibatch_size: Annotated[int, Field(ge=1)] = 4096
    warmup_iterations: Annotated[int, Field(ge=0)] = 0
    buffer_iterations: Annotated[int, Field(ge=1)] = 1
    update_period_iters: Annotated[int, Field(ge=1)] = 1
    prior: Annotated[float, Field(gt=0.0)] = 1.0
    exploration: Share = 0.0

    def weight_at(self, iteration: int) -> float:
        """The weight of the reciprocal reward at an iteration, from 0."""
        if isinstance(self.weight, WeightSchedule):
            return scheduled_weight(self.weight.start, self.weight.end, self.weight.per_iteration, iteration)
        return self.weight


class ModelSettings(_Settings):
    """The learning players' networks; see :class:`rllib_reciprocator.models.ActorCriticModule`."""

    conv_filters: Annotated[list[Annotated[int, Field(ge=1)]], Field(max_length=8)] = []
    fcnet_hiddens: Annotated[list[Annotated[int, Field(ge=1)]], Field(max_length=8)] = [16, 16]
    fcnet_activation: Literal["relu", "tanh", "silu", "linear"] = "relu"
    use_gru: bool = False
    gru_cell_size: Annotated[int, Field(ge=1)] = 32
