"""How players learn inside the environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from rllib_reciprocator.models.settings import ModelSettings
from rllib_reciprocator.utils.settings import LARGEST_RATE, Settings, Share

PG: Literal["pg"] = "pg"
A2C: Literal["a2c"] = "a2c"


class LearningSettings(Settings):
    """How a player learns between inner episodes.

    Attributes:
        algorithm: ``pg``, from returns; or ``a2c``, with a critic.
        networks: ``model_config``, its networks; None for a table of the game's observations, where these are few.
        initial_std: Standard deviation of the first entries of a table.
        optimizer: By what it takes its steps, one after every inner episode.
        lr: Learning rate.
        gamma: Discount.
        lambda_: ``lambda``, the weight of later estimates in the advantages of ``a2c``.
        use_baseline: Whether ``pg`` learns from returns less their mean over the copies at the same step.
        normalize_advantages: Whether advantages are standardised over the steps and copies of an inner episode.
        entropy_coeff: Weight of the entropy.
        vf_loss_coeff: Weight of the loss of the critic.
        grad_clip: Largest norm of its gradient; None for any.
    """

    model_config = ConfigDict(populate_by_name=True)

    algorithm: Literal["pg", "a2c"] = PG
    networks: ModelSettings | None = Field(None, alias="model_config")
    initial_std: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: Annotated[float, Field(ge=0.0, le=LARGEST_RATE)] = 2.0
    gamma: Share = 0.99
    lambda_: Share = Field(1.0, alias="lambda")
    use_baseline: bool = True
    normalize_advantages: bool = True
    entropy_coeff: Annotated[float, Field(ge=0.0, le=LARGEST_RATE)] = 0.0
    vf_loss_coeff: Annotated[float, Field(ge=0.0, le=LARGEST_RATE)] = 0.5
    grad_clip: Annotated[float, Field(gt=0.0)] | None = None


# Those that need not be described: a table by gradient descent, and a network by Adam.
KNOWN_LEARNERS = {
    PG: LearningSettings.model_validate({"algorithm": PG}),
    A2C: LearningSettings.model_validate(
        {"algorithm": A2C, "model_config": {"fcnet_hiddens": [32]}, "optimizer": "adam", "lr": 5e-3}
    ),
}


def described_learner(
    name: str, described: Mapping[str, LearningSettings], settings: Mapping[str, Any]
) -> LearningSettings:
    """The settings of a player that learns, from what is known of it and what is set.

    Args:
        name: Its name.
        described: Those that were described before, by name.
        settings: What is set; of a name that is not known before beside the defaults of its ``algorithm``.

    Raises:
        pydantic.ValidationError: If a value has the wrong type or is out of range.
    """
    known = {**KNOWN_LEARNERS, **described}
    of = name if name in known else settings.get("algorithm", PG)
    current = known[of].model_dump(exclude_unset=True, by_alias=True) if of in known else {}
    return LearningSettings.model_validate({**current, **settings})
