"""A network: an ordinary RLModule of RLlib with two layers."""

from __future__ import annotations

from typing import Any

from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn


class TwoLayers(TorchRLModule, ValueFunctionAPI):
    """Policy and critic with one hidden layer each; ``width`` in ``model_config``."""

    def setup(self) -> None:
        """Builds the layers."""
        (size,), width = self.observation_space.shape, self.model_config.get("width", 32)
        self.policy = nn.Sequential(nn.Linear(size, width), nn.Tanh(), nn.Linear(width, int(self.action_space.n)))
        self.critic = nn.Sequential(nn.Linear(size, width), nn.Tanh(), nn.Linear(width, 1))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """Computes the logits of actions, ``[rows, A]``."""
        return {Columns.ACTION_DIST_INPUTS: self.policy(batch[Columns.OBS].float())}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Computes the value of each row, ``[rows]``."""
        return self.critic(batch[Columns.OBS].float()).squeeze(-1)
