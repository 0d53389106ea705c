"""Settings of online learners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from rllib_reciprocator.models.settings import ModelSettings
from rllib_reciprocator.utils.settings import LARGEST_RATE, Settings, Share

PG: Literal["pg"] = "pg"
A2C: Literal["a2c"] = "a2c"


class LearningSettings(Settings):
    """Settings of an online learner, which is updated between inner episodes.

    Attributes:
        algorithm: Update rule: ``pg``, a policy gradient from returns; or ``a2c``, with a critic.
        networks: ``model_config``, the settings of its networks; None for a table, which needs an environment with few
            observations.
        initial_std: Standard deviation of the initial logits of a table.
        optimizer: Optimizer, which takes one step after every inner episode.
        lr: Learning rate.
        gamma: Discount factor.
        lambda_: ``lambda`` of the GAE advantages; with ``pg``, 1 gives discounted returns.
        use_baseline: If True, ``pg`` subtracts from each return the mean over the environments of the group at the same
            step.
        normalize_advantages: If True, advantages are standardized over the steps and environments of an inner episode.
        entropy_coeff: Coefficient of the entropy bonus.
        vf_loss_coeff: Coefficient of the value loss.
        grad_clip: Maximum norm of the gradient; None for no clipping.
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


# Online learners that need no settings: a table that is trained by SGD, and a network that is trained by Adam.
KNOWN_LEARNERS = {
    PG: LearningSettings.model_validate({"algorithm": PG}),
    A2C: LearningSettings.model_validate(
        {"algorithm": A2C, "model_config": {"fcnet_hiddens": [32]}, "optimizer": "adam", "lr": 5e-3}
    ),
}


def described_learner(
    name: str, described: Mapping[str, LearningSettings], settings: Mapping[str, Any]
) -> LearningSettings:
    """Returns the settings of an online learner: its previous settings, updated by new ones.

    Args:
        name: Name of the online learner.
        described: Settings of the online learners that were configured before, by name.
        settings: Settings to change. A name without previous settings starts from the defaults of its ``algorithm``.

    Raises:
        pydantic.ValidationError: If a value has the wrong type or is out of range.
    """
    learners = {**KNOWN_LEARNERS, **described}
    base = name if name in learners else settings.get("algorithm", PG)
    current = learners[base].model_dump(exclude_unset=True, by_alias=True) if base in learners else {}
    return LearningSettings.model_validate({**current, **settings})
