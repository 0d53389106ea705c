"""What all typed settings have in common: types, ranges and defaults are written once, in pydantic models."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

LARGEST_RATE = 1e30


def _rising(points: float | list[list[float]]) -> float | list[list[float]]:
    """Checks the points of a schedule; see :data:`Rate`."""
    if isinstance(points, list):
        if not points or any(len(each) != 2 or not 0 <= each[1] <= LARGEST_RATE for each in points):
            raise ValueError("a schedule is a list of [step, rate], with rates that are not negative")
        steps = [each[0] for each in points]
        if steps[0] != 0 or any(int(step) != step for step in steps) or sorted(set(steps)) != steps:
            raise ValueError("the steps of a schedule begin with 0 and rise")
    return points


# A learning rate, or a schedule of it by joint steps sampled, as RLlib's: ``[[0, 0.01], [100000, 0.001]]``.
Rate = Annotated[Annotated[float, Field(ge=0.0, le=LARGEST_RATE)] | list[list[float]], AfterValidator(_rising)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
WIDEST, MAX_PARAMETERS = 65_536, 2**28
Width = Annotated[int, Field(ge=1, le=WIDEST)]


class Settings(BaseModel):
    """Settings that are frozen, and refuse what they do not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check_widths(self) -> Self:
        """Layers that no machine can hold are refused, not tried."""
        for name in type(self).model_fields:
            widths = getattr(self, name)
            if name.endswith("hiddens") and isinstance(widths, list | tuple):
                if widths and not all(1 <= width <= WIDEST for width in widths):
                    raise ValueError(f"{name} has a width that is not between 1 and {WIDEST}")
                if sum(first * second for first, second in pairwise(widths)) > MAX_PARAMETERS:
                    raise ValueError(f"{name} makes more than {MAX_PARAMETERS} weights")
        return self

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Checkpoints of earlier versions lack the settings that came later; those are at their defaults."""
        defaults = {
            name: field.get_default(call_default_factory=True) for name, field in type(self).model_fields.items()
        }
        super().__setstate__({**state, "__dict__": {**defaults, **state["__dict__"]}})


class IntrinsicSettings(Settings):
    """Settings of an intrinsic reward.

    Attributes:
        common: Names of settings that hold for all players who are moved by it, and that none has to itself.
    """

    common: ClassVar[tuple[str, ...]] = ()

    @property
    def always(self) -> bool:
        """Whether what it is computed from is followed even where nobody is moved by it."""
        return False

    def for_game(self, *, has_payoffs: bool, num_agents: int, gamma: float, lowest_reward: float | None = None) -> Self:
        """The settings with everything decided that follows from the game.

        Args:
            has_payoffs: Whether rewards follow from the joint action alone.
            num_agents: N.
            gamma: The discount of rewards.
            lowest_reward: Lowest reward that an agent can get in a step; None if that is not known.
        """
        return self

    def weight_at(self, iteration: int) -> float:
        """What the reward is multiplied with at an iteration, from 0."""
        return 1.0
