"""Module of Advantage Alignment with value estimates of co-players that have no critic."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_reciprocator.models import ActorCriticModule
from rllib_reciprocator.models.actor_critic import Network
from rllib_reciprocator.utils.distributed import mean_of_counted

# Columns of a training batch, [rows, N - 1]: lambda-returns of the k-th agent after this one, and the mask of rows in
# which that agent's value is trained.
CO_PLAYER_TARGETS, CO_PLAYER_MASK = "co_player_targets", "co_player_mask"
CO_PLAYER_LOSS = "co_player_vf_loss"


class AlignedModule(ActorCriticModule):
    """Actor-critic with an additional network that estimates the returns of co-players without a critic.

    Frozen policies, scripted policies and online learners are not trained by the learner, so there is no critic for
    their advantages. This network estimates their returns from the agent's own observation. It has no memory.

    Settings in ``model_config``, in addition to those of :class:`ActorCriticModule`: ``num_co_players``, N - 1.
    """

    def setup(self) -> None:
        """Builds the networks."""
        super().setup()
        without_memory = {**self.model_config, "use_gru": False, "use_lru": False}
        self.co_critic = Network(self.observation_space, self.model_config["num_co_players"], without_memory)

    def compute_co_player_values(self, batch: dict[str, Any]) -> Tensor:
        """Returns the values of the co-players, ``[rows, N - 1]``; column k is the k-th agent after this one."""
        return self.co_critic(batch)[0]

    def auxiliary_losses(self, batch: dict[str, Any], out: dict[str, Tensor]) -> dict[str, tuple[Tensor, float]]:
        """Returns the losses that are added to the PPO loss, by name, each with its weight.

        Args:
            batch: A training batch.
            out: The outputs of the forward pass.
        """
        losses = super().auxiliary_losses(batch, out)
        squared_errors = (self.compute_co_player_values(batch) - batch[CO_PLAYER_TARGETS]).square()
        mask = batch[CO_PLAYER_MASK]
        if Columns.LOSS_MASK in batch:
            mask = torch.logical_and(mask, batch[Columns.LOSS_MASK][:, None])
        return {**losses, CO_PLAYER_LOSS: (mean_of_counted(squared_errors, mask), self.model_config["vf_loss_coeff"])}
