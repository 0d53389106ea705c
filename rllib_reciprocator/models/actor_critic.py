"""Actor and critic with separate networks, without or with memory."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from rllib_reciprocator.models.distributions import distribution_for
from rllib_reciprocator.models.encoder import Encoder

# Column of a batch: the agent's influence balance towards each other player, [rows, N - 1].
BALANCE = "influence_balance"
# What the forward pass of a training batch puts out: the same as predicted, [rows, N - 1], in units of bounded().
PREDICTED_BALANCE = "predicted_balance"
MEMORY = "memory"
OBSERVES, PREDICTS = "observes", "predicts"


def bounded(balance: Tensor, scale: float) -> Tensor:
    """A balance as policies see it, between -1 and 1."""
    return torch.tanh(balance / scale)


class _Network(nn.Module):
    """Encoder, memory if there is one, and a linear head."""

    def __init__(self, shape: tuple[int, ...], outputs: int, config: dict[str, Any]) -> None:
        super().__init__()
        self.num_observed = config["num_balances"] if config["balance_use"] == OBSERVES else 0
        self.encoder = Encoder(
            shape, self.num_observed, config["conv_filters"], config["fcnet_hiddens"], config["fcnet_activation"]
        )
        width = self.encoder.width
        self.memory = nn.GRU(width, config["gru_cell_size"], batch_first=True) if config["use_gru"] else None
        self.width = config["gru_cell_size"] if config["use_gru"] else width
        self.head = nn.Linear(self.width, outputs)
        self.balance_scale = config["balance_scale"]

    def encode(self, batch: dict[str, Any]) -> Tensor:
        """Features of each row, ``[rows, width]``."""
        observed = bounded(batch[BALANCE], self.balance_scale) if self.num_observed else None
        return self.encoder(batch[Columns.OBS], observed)

    def sequences(self, batch: dict[str, Any], steps: int) -> Tensor:
        """Features of rows that are whole episodes of that many steps one after the other, ``[rows, width]``."""
        features = self.encode(batch)
        if self.memory is not None:
            features = self.memory(features.unflatten(0, (-1, steps)))[0].flatten(0, 1)
        return features


class ActorCriticModule(TorchRLModule, ValueFunctionAPI):
    """Two networks on the observation, one for logits and one for the value.

    Settings in ``model_config``, named as RLlib's where it has them: ``conv_filters`` (output planes of circular 3x3
    convolutions), ``fcnet_hiddens`` (widths), ``fcnet_activation``, ``use_gru`` and ``gru_cell_size`` (a memory after
    them), ``num_balances`` (0, or N - 1 for a policy that has to do with its influence balance) with ``balance_scale``
    and ``balance_use``: it ``observes`` the balance, which joins after the convolutions as
    ``tanh(balance / balance_scale)`` and so is bounded by 1, or it ``predicts`` the same from its own features, so
    that its memory learns to keep what tells the balance. With a memory, ``episode_steps`` says how many rows of a
    training batch are an episode; it starts each with an empty memory.
    """

    def setup(self) -> None:
        """Builds both networks."""
        config = self.model_config
        self.action_dist_cls = distribution_for(self.action_space)
        self.num_balances = int(config["num_balances"])
        shape = tuple(self.observation_space.shape)
        self.actor = _Network(shape, self.action_dist_cls.required_input_dim(self.action_space), config)
        self.critic = _Network(shape, 1, config)
        predicts = self.num_balances if config["balance_use"] == PREDICTS else 0
        self.balance_head = nn.Linear(self.actor.width, predicts) if predicts else None

    def get_initial_state(self) -> dict[str, Tensor]:
        """An empty memory, if there is one."""
        return {MEMORY: torch.zeros(self.model_config["gru_cell_size"])} if self.model_config["use_gru"] else {}

    def train(self, mode: bool = True) -> ActorCriticModule:
        """Notes the mode and leaves the layers alone: none of them acts otherwise in training.

        RLlib switches the mode at every forward pass; walking through the layers each time would take as long as the
        pass itself.
        """
        self.training = mode
        return self

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """One step of each row."""
        features = self.actor.encode(batch)
        if self.actor.memory is None:
            return {Columns.ACTION_DIST_INPUTS: self.actor.head(features)}
        memory = batch[Columns.STATE_IN][MEMORY]
        features, memory = self.actor.memory(features[:, None], memory[None].contiguous())
        return {
            Columns.ACTION_DIST_INPUTS: self.actor.head(features[:, 0]),
            Columns.STATE_OUT: {MEMORY: memory[0]},
        }

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        features = self.actor.sequences(batch, self.model_config["episode_steps"])
        out = {Columns.ACTION_DIST_INPUTS: self.actor.head(features)}
        if self.balance_head is not None:
            out[PREDICTED_BALANCE] = self.balance_head(features).tanh()
        return out

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """The value of each row, ``[rows]``."""
        return self.critic.head(self.critic.sequences(batch, self.model_config["episode_steps"])).squeeze(-1)
