"""Feed-forward actor and critic with separate networks."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from rllib_reciprocator.models.distributions import distribution_for

# Column of a batch: the agent's influence balance towards each other player, [rows, N - 1].
BALANCE = "influence_balance"

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU, "linear": nn.Identity}


class FeedForwardModule(TorchRLModule, ValueFunctionAPI):
    """Two multilayer perceptrons on the flattened observation: logits and value.

    Settings in ``model_config``, named as RLlib's: ``fcnet_hiddens`` (widths), ``fcnet_activation``; and
    ``num_balances`` (0, or N - 1 for a policy that sees its influence balance) with ``balance_scale``: the balance
    enters both networks as ``tanh(balance / balance_scale)``, which is bounded by 1.
    """

    def setup(self) -> None:
        """Builds both networks."""
        config = self.model_config
        self.action_dist_cls = distribution_for(self.action_space)
        self.num_balances = int(config["num_balances"])
        inputs = prod(self.observation_space.shape) + self.num_balances
        hiddens, activation = config["fcnet_hiddens"], ACTIVATIONS[config["fcnet_activation"]]
        self.actor = _perceptron(
            inputs, hiddens, self.action_dist_cls.required_input_dim(self.action_space), activation
        )
        self.critic = _perceptron(inputs, hiddens, 1, activation)

    def train(self, mode: bool = True) -> FeedForwardModule:
        """Notes the mode and leaves the layers alone: none of them acts otherwise in training.

        RLlib switches the mode at every forward pass; walking through the layers each time would take as long as the
        pass itself.
        """
        self.training = mode
        return self

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        return {Columns.ACTION_DIST_INPUTS: self.actor(self._inputs(batch))}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """The value of each row, ``[rows]``."""
        return self.critic(self._inputs(batch)).squeeze(-1)

    def _inputs(self, batch: dict[str, Any]) -> Tensor:
        obs = batch[Columns.OBS].flatten(1)
        if not self.num_balances:
            return obs
        return torch.cat([obs, torch.tanh(batch[BALANCE] / self.model_config["balance_scale"])], 1)


def _perceptron(inputs: int, hiddens: list[int], outputs: int, activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hiddens:
        layers += [nn.Linear(inputs, width), activation()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))
