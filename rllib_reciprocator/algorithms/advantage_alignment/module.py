"""Module of Advantage Alignment with value estimates of co-players that are not trained on advantages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_reciprocator.models import ActorCriticModule
from rllib_reciprocator.models.actor_critic import Network
from rllib_reciprocator.utils.distributed import mean_of_counted

if TYPE_CHECKING:
    from rllib_reciprocator.engine.config import BatchedConfig
    from rllib_reciprocator.engine.context import RunContext
    from rllib_reciprocator.engine.player_mapping import Player

# Columns of a training batch, [rows, N - 1]: lambda-returns of the k-th agent after this one, and the mask of rows in
# which that agent's value is trained.
CO_PLAYER_TARGETS, CO_PLAYER_MASK = "co_player_targets", "co_player_mask"
CO_PLAYER_LOSS = "co_player_vf_loss"


class AlignedModule(ActorCriticModule):
    """Actor-critic with an additional network that estimates returns of co-players.

    Frozen policies, scripted policies and online learners are not trained by the learner, and shapers are trained
    without advantages. This network estimates the returns of such co-players from the agent's own observation. It has
    no memory.

    Settings in ``model_config``, in addition to those of :class:`ActorCriticModule`: ``num_co_players``, N - 1, or 0 if
    all co-players are trained on advantages; and ``vf_loss_coeff``.
    """

    def setup(self) -> None:
        """Builds the networks."""
        super().setup()
        without_memory = {**self.model_config, "use_gru": False, "use_lru": False}
        num_co_players = self.model_config["num_co_players"]
        self.co_critic = Network(self.observation_space, num_co_players, without_memory) if num_co_players else None

    def compute_co_player_values(self, batch: dict[str, Any]) -> Tensor:
        """Returns the values of the co-players, ``[rows, N - 1]``; column k is the k-th agent after this one."""
        assert self.co_critic is not None
        return self.co_critic(batch)[0]

    def auxiliary_losses(self, batch: dict[str, Any], out: dict[str, Tensor]) -> dict[str, tuple[Tensor, float]]:
        """Returns the losses that are added to the PPO loss, by name, each with its weight.

        Args:
            batch: A training batch.
            out: The outputs of the forward pass.
        """
        losses = super().auxiliary_losses(batch, out)
        if self.co_critic is None:
            return losses
        squared_errors = (self.compute_co_player_values(batch) - batch[CO_PLAYER_TARGETS]).square()
        mask = batch[CO_PLAYER_MASK]
        if Columns.LOSS_MASK in batch:
            mask = torch.logical_and(mask, batch[Columns.LOSS_MASK][:, None])
        return {**losses, CO_PLAYER_LOSS: (mean_of_counted(squared_errors, mask), self.model_config["vf_loss_coeff"])}


def has_advantages(config: BatchedConfig, context: RunContext, player: Player) -> bool:
    """Returns True if a player is trained on advantages: returns minus a value or a mean."""
    if not player.learns:
        return False
    rule = context.rule_class(player)
    return rule.uses_advantages and (rule.needs_critic or (rule.centers_returns and config.use_baseline))


def module_settings(config: BatchedConfig, context: RunContext, player: Player) -> dict[str, Any]:
    """Returns the settings of a player's module: the number of co-players whose returns it estimates.

    These are all co-players if at least one player of the run is not trained on advantages.

    Args:
        config: The configuration.
        context: Facts about the run.
        player: The player.
    """
    estimates = any(not has_advantages(config, context, seat.player) for seat in context.seats())
    return {
        "num_co_players": context.num_agents - 1 if estimates else 0,
        "vf_loss_coeff": player.settings.get("vf_loss_coeff", config.vf_loss_coeff),
    }
