"""Typed settings of the Reciprocator algorithm: types, ranges and defaults, each written once."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from typing_extensions import Self

from rllib_reciprocator.rewards import REWARDS, scheduled_weight

Share = Annotated[float, Field(ge=0.0, le=1.0)]
WIDEST, MOST_PARAMETERS = 65_536, 2**28
Width = Annotated[int, Field(ge=1, le=WIDEST)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check_widths(self) -> Self:
        """Layers that no machine can hold are refused, not tried."""
        for name in type(self).model_fields:
            widths = getattr(self, name)
            if name.endswith("hiddens") and isinstance(widths, list | tuple):
                if widths and not all(1 <= width <= WIDEST for width in widths):
                    raise ValueError(f"{name} has a width that is not between 1 and {WIDEST}")
                if sum(first * second for first, second in pairwise(widths)) > MOST_PARAMETERS:
                    raise ValueError(f"{name} makes more than {MOST_PARAMETERS} weights")
        return self

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Checkpoints of earlier versions lack the settings that came later; those are at their defaults."""
        defaults = {
            name: field.get_default(call_default_factory=True) for name, field in type(self).model_fields.items()
        }
        super().__setstate__({**state, "__dict__": {**defaults, **state["__dict__"]}})


class WeightSchedule(_Settings):
    """A weight that moves from ``start`` to ``end`` by ``per_iteration`` an iteration, up or down."""

    start: float
    end: float
    per_iteration: Annotated[float, Field(gt=0.0)]


class ReciprocitySettings(_Settings):
    """What :meth:`ReciprocatorConfig.reciprocity` sets; its docstring says what each setting means."""

    reward: Literal[tuple(REWARDS)] = "petty"  # type: ignore[valid-type]
    weight: float | WeightSchedule | None = None
    balance_decay: Share = 0.0
    normalize: bool = False
    observe_balance: bool | None = None
    balance_scale: Annotated[float, Field(gt=0.0)] = 4.0
    predict_balance_coeff: Annotated[float, Field(ge=0.0)] = 0.0
    influence: Literal["auto", "tabular", "reward", "counterfactual", "transition"] = "auto"
    future_weight: Annotated[float, Field(ge=0.0)] = 0.0
    estimator_sees: Literal["state", "observations", "own"] = "state"
    counterfactual: Literal["policy", "modelled", "uniform"] | None = None
    estimator_hiddens: Annotated[list[Width], Field(min_length=1, max_length=8)] = [64, 64]
    estimator_lr: Annotated[float, Field(gt=0.0)] = 0.005
    estimator_epochs: Annotated[int, Field(ge=1)] = 2
    estimator_minibatch_size: Annotated[int, Field(ge=1)] = 4096
    tau: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    warmup_iterations: Annotated[int, Field(ge=0)] = 0
    buffer_iterations: Annotated[int, Field(ge=1)] = 1
    update_period_iters: Annotated[int, Field(ge=1)] = 1
    prior: Annotated[float, Field(gt=0.0)] = 1.0
    exploration: Share = 0.0
    always_estimate: bool = False

    def weight_at(self, iteration: int, default: float) -> float:
        """The weight of the reciprocal reward at an iteration, from 0.

        Args:
            iteration: The iteration.
            default: What is taken where no weight is set.
        """
        if isinstance(self.weight, WeightSchedule):
            return scheduled_weight(self.weight.start, self.weight.end, self.weight.per_iteration, iteration)
        return default if self.weight is None else self.weight


class ModelSettings(_Settings):
    """The learning players' networks; see :class:`rllib_reciprocator.models.ActorCriticModule`."""

    model: Literal["actor_critic", "rllib"] = "actor_critic"
    conv_filters: Annotated[list[Width], Field(max_length=8)] = []
    fcnet_hiddens: Annotated[list[Width], Field(max_length=8)] = [16, 16]
    fcnet_activation: Literal["relu", "tanh", "silu", "linear"] = "relu"
    use_gru: bool = False
    gru_cell_size: Annotated[int, Field(ge=1, le=8192)] = 32


def _settings_of_rllib() -> dict[str, Any]:
    """RLlib's default-model settings as fields of a pydantic model."""
    hints = get_type_hints(DefaultModelConfig)
    fields: dict[str, Any] = {"model": (Literal["rllib"], "rllib")}
    for name, default in dataclasses.asdict(DefaultModelConfig()).items():
        fields[name] = (hints[name], default)
    return fields


RLlibModelSettings = create_model(
    "RLlibModelSettings",
    __base__=_Settings,
    __doc__="""RLlib's default models; see ``ray.rllib.core.rl_module.default_model_config.DefaultModelConfig``.""",
    **_settings_of_rllib(),
)


def model_settings_class(given: dict[str, Any]) -> type[BaseModel]:
    """Which settings a ``model_config`` has: RLlib's with ``model: rllib``, else ours."""
    return RLlibModelSettings if given.get("model") == "rllib" else ModelSettings
