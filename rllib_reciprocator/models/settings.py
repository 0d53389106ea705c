"""Settings of the networks of trained players."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import AfterValidator, BaseModel, Field, create_model, model_validator
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from typing_extensions import Self

from rllib_reciprocator.utils.settings import WIDEST, Settings, Width

MAX_STRIDE = 4


def _convolution(written: int | list[int]) -> int | list[int]:
    pair = [written, 1] if isinstance(written, int) else written
    if len(pair) != 2 or not (1 <= pair[0] <= WIDEST and 1 <= pair[1] <= MAX_STRIDE):
        raise ValueError(f"give output planes, or output planes and a stride up to {MAX_STRIDE}")
    return written


Convolution = Annotated[int | list[int], AfterValidator(_convolution)]


class ModelSettings(Settings):
    """Settings of the networks of trained players; see :class:`rllib_reciprocator.models.ActorCriticModule`."""

    model: Literal["actor_critic", "rllib"] = "actor_critic"
    conv_filters: Annotated[list[Convolution], Field(default_factory=list, max_length=8)]
    embedding_size: Annotated[int, Field(ge=1, le=1024)] = 8
    fcnet_hiddens: Annotated[list[Width], Field(default_factory=lambda: [16, 16], max_length=8)]
    fcnet_activation: Literal["relu", "tanh", "silu", "linear"] = "relu"
    use_gru: bool = False
    gru_cell_size: Annotated[int, Field(ge=1, le=8192)] = 32
    use_lru: bool = False
    lru_cell_size: Annotated[int, Field(ge=1, le=8192)] = 32
    vf_share_layers: bool = False
    head_fcnet_kernel_initializer: Literal["zeros_"] | None = None
    head_fcnet_bias_initializer: Literal["zeros_"] | None = None
    one_hot: bool = False

    @model_validator(mode="after")
    def _check_memory(self) -> Self:
        """Raises ValueError if both kinds of memory are set."""
        if self.use_gru and self.use_lru:
            raise ValueError("use_gru and use_lru: a network has one memory; set only one of them")
        return self


def _settings_of_rllib() -> dict[str, Any]:
    """Returns RLlib's default model settings as fields of a pydantic model."""
    hints = get_type_hints(DefaultModelConfig)
    fields: dict[str, Any] = {"model": (Literal["rllib"], "rllib")}
    for name, default in dataclasses.asdict(DefaultModelConfig()).items():
        fields[name] = (hints[name], default)
    return fields


RLlibModelSettings = create_model(
    "RLlibModelSettings",
    __base__=Settings,
    __doc__="""RLlib's default models; see ``ray.rllib.core.rl_module.default_model_config.DefaultModelConfig``.""",
    **_settings_of_rllib(),
)


def model_settings_class(given: dict[str, Any]) -> type[BaseModel]:
    """Returns the class of the settings of a ``model_config``: RLlib's with ``model: rllib``, else this package's."""
    return RLlibModelSettings if given.get("model") == "rllib" else ModelSettings
