"""Base classes and types of settings, which are pydantic models that define types, ranges and defaults."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

LARGEST_RATE = 1e30
# Optional column of the columns that reward functions take, [B, T, N] bool: True in the steps that count in which the
# pool member that plays the agent has these settings. Statistics over the batch use these steps only; without it they
# use all.
LOSS_MASK = "loss_mask"


def _rising(points: float | list[list[float]]) -> float | list[list[float]]:
    """Checks the points of a schedule; see :data:`Rate`.

    Raises:
        ValueError: If a point has a wrong form, or the steps do not start at 0 or are not increasing integers.
    """
    if isinstance(points, list):
        if not points or any(len(point) != 2 or not 0 <= point[1] <= LARGEST_RATE for point in points):
            raise ValueError("a schedule must be a list of [step, rate] with non-negative rates")
        steps = [point[0] for point in points]
        if steps[0] != 0 or any(int(step) != step for step in steps) or sorted(set(steps)) != steps:
            raise ValueError("the steps of a schedule must start at 0 and increase")
    return points


# Learning rate, or a schedule of it by sampled environment steps in RLlib's form: ``[[0, 0.01], [100000, 0.001]]``.
Rate = Annotated[Annotated[float, Field(ge=0.0, le=LARGEST_RATE)] | list[list[float]], AfterValidator(_rising)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
WIDEST, MAX_PARAMETERS = 65_536, 2**28
Width = Annotated[int, Field(ge=1, le=WIDEST)]


class Settings(BaseModel):
    """Base class of settings. Instances are immutable, and unknown settings are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check_widths(self) -> Self:
        """Checks the widths of layers, so that networks too large for any machine are refused.

        Raises:
            ValueError: If a width or the number of weights is out of range.
        """
        for name in type(self).model_fields:
            widths = getattr(self, name)
            if name.endswith("hiddens") and isinstance(widths, list | tuple):
                if widths and not all(1 <= width <= WIDEST for width in widths):
                    raise ValueError(f"{name} has a width that is not between 1 and {WIDEST}")
                if sum(first * second for first, second in pairwise(widths)) > MAX_PARAMETERS:
                    raise ValueError(f"{name} has more than {MAX_PARAMETERS} weights; use smaller widths")
        return self

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Restores pickled settings. Settings that checkpoints of earlier versions lack get their defaults."""
        defaults = {
            name: field.get_default(call_default_factory=True) for name, field in type(self).model_fields.items()
        }
        super().__setstate__({**state, "__dict__": {**defaults, **state["__dict__"]}})


class IntrinsicSettings(Settings):
    """Base class of the settings of an intrinsic reward.

    Attributes:
        common: Names of settings that are shared by all players with this intrinsic reward and cannot be set per
            player.
        defaults_0_1: Defaults of version 0.1 that have changed since, for the configurations in its checkpoints.
    """

    common: ClassVar[tuple[str, ...]] = ()
    defaults_0_1: ClassVar[dict[str, Any]] = {}

    @property
    def always(self) -> bool:
        """Returns True if the inputs of the reward are computed even if no player has this intrinsic reward."""
        return False

    def for_game(self, *, has_payoffs: bool, num_agents: int, gamma: float, lowest_reward: float | None = None) -> Self:
        """Returns the settings with all defaults resolved that depend on the environment.

        Args:
            has_payoffs: If True, rewards depend on the joint action only.
            num_agents: Number of agents N.
            gamma: Discount factor.
            lowest_reward: Lowest possible reward of an agent per step; None if unknown.
        """
        return self

    def weight_at(self, iteration: int) -> float:
        """Returns the factor of the reward at a training iteration, counted from 0."""
        return 1.0
