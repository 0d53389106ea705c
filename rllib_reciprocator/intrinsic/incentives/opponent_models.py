"""Models of the other agents' policies, for givers that observe their actions but do not know their policies."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from rllib_reciprocator.models.stacked import stacked_mlp
from rllib_reciprocator.utils.softmax import log_softmax


class OpponentModels(TorchRLModule):
    """N * (N - 1) networks: every agent has a model of each agent after it, from observation to action of that agent.

    Source: Yang et al. (2020), section 3.2, the decentralized form.

    Settings in ``model_config``: ``num_agents`` and ``hiddens``.
    """

    others: Tensor

    def setup(self) -> None:
        """Builds the networks."""
        n = self.model_config["num_agents"]
        agents = torch.arange(n)
        # Index of the agent that each network models, [N * (N - 1)].
        self.register_buffer("others", ((agents[:, None] + 1 + torch.arange(n - 1)) % n).flatten(), persistent=False)
        sizes = [prod(self.observation_space.shape), *self.model_config["hiddens"], int(self.action_space.n)]
        self.networks = stacked_mlp(n * (n - 1), sizes)

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Computes the log-probabilities of actions, ``[N * (N - 1), rows]``.

        Args:
            obs: ``[rows, N, *obs_shape]``.
            actions: ``[rows, N]`` int64.
        """
        inputs = obs.flatten(2).float().transpose(0, 1)[self.others]
        return log_softmax(self.networks(inputs)).gather(-1, actions.t()[self.others][..., None])[..., 0]

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Raises NotImplementedError; opponent models do not act."""
        raise NotImplementedError
