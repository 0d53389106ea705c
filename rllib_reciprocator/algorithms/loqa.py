"""LOQA: players that learn with the effect of their actions on the learning of co-players, through Q-values."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.columns import Columns
from ray.rllib.utils.annotations import override
from torch import Tensor
from torch.nn import functional

from rllib_reciprocator.engine.advantages import generalized_advantages
from rllib_reciprocator.engine.algorithm import BatchedAlgorithm
from rllib_reciprocator.engine.config import BatchedConfig
from rllib_reciprocator.engine.context import RunContext
from rllib_reciprocator.engine.learner import BatchedLearner
from rllib_reciprocator.engine.player_mapping import Player
from rllib_reciprocator.engine.rollout_batch import RolloutBatch
from rllib_reciprocator.engine.update_rule import AdvantageStep, Stats, UpdateInfo
from rllib_reciprocator.engine.updates.ppo import PPORule
from rllib_reciprocator.models import ActorCriticModule
from rllib_reciprocator.models.actor_critic import Network
from rllib_reciprocator.utils.distributed import deviation, mean_of_counted

# Columns of a training batch, [rows, N - 1]: actions of the k-th agent after this one, and the targets of their
# Q-values.
CO_PLAYER_ACTIONS, Q_TARGETS = "co_player_actions", "co_player_q_targets"


class LOQAModule(ActorCriticModule):
    """Actor-critic with a Q head: a network of the co-players' Q-values, and a target network of it.

    Settings in ``model_config``, in addition to those of :class:`ActorCriticModule`: ``num_co_players`` (N - 1),
    ``q_loss_coeff`` and ``q_target_decay``.
    """

    def setup(self) -> None:
        """Builds the networks. Q-values are estimated from the agent's own observation, without memory."""
        super().setup()
        config = {**self.model_config, "use_gru": False, "use_lru": False}
        outputs = config["num_co_players"] * int(self.action_space.n)
        self.q_network = Network(self.observation_space, outputs, config)
        self.q_target = Network(self.observation_space, outputs, config)
        self.q_target.load_state_dict(self.q_network.state_dict())
        self.q_target.requires_grad_(requires_grad=False)

    def compute_target_q_values(self, batch: dict[str, Any]) -> Tensor:
        """Computes the target network's Q-values of the k-th agent after this one, ``[rows, N - 1, A]``."""
        return self.q_target(batch)[0].unflatten(1, (self.model_config["num_co_players"], -1))

    def auxiliary_losses(self, batch: dict[str, Any], out: dict[str, Tensor]) -> dict[str, tuple[Tensor, float]]:
        """Returns the losses that are added to the PPO loss, by name, each with its weight."""
        q_values = self.q_network(batch)[0].unflatten(1, (self.model_config["num_co_players"], -1))
        q_of_actions = q_values.gather(2, batch[CO_PLAYER_ACTIONS][..., None])[..., 0]
        errors = functional.huber_loss(q_of_actions, batch[Q_TARGETS], reduction="none").mean(-1)
        loss = mean_of_counted(errors, batch.get(Columns.LOSS_MASK))
        return {**super().auxiliary_losses(batch, out), "q_loss": (loss, self.model_config["q_loss_coeff"])}

    @torch.no_grad()
    def update_target(self) -> None:
        """Moves the target network towards the Q network."""
        decay = self.model_config["q_target_decay"]
        for target, param in zip(self.q_target.parameters(), self.q_network.parameters(), strict=True):
            target.lerp_(param, 1.0 - decay)


def module_settings(config: BatchedConfig, context: RunContext, player: Player) -> dict[str, Any]:
    """Returns the settings of a player's module in addition to those of its networks."""
    coeff = player.settings.get("q_loss_coeff", config.q_loss_coeff)
    return {"num_co_players": context.num_agents - 1, "q_loss_coeff": coeff, "q_target_decay": 0.5}


class LOQARule(PPORule):
    """PPO, followed by an update of the target networks."""

    needs_whole_episodes: ClassVar[bool] = True

    def check(self) -> None:
        """Checks that there are co-players, and that the settings of each module are in range."""
        if self.context.num_agents == 1:
            raise ValueError(f"env: loqa players need other agents, and {self.config.env} has one agent")
        for module_id in self.module_ids:
            config = self.config.get_config_for_module(module_id)
            if config.q_temperature <= 0.0 or not 0.0 <= config.shaping_decay <= 1.0:
                raise ValueError("q_temperature: must be above 0; shaping_decay: must be from 0 to 1")

    def update(self, learner: BatchedLearner, batch: RolloutBatch, info: UpdateInfo) -> Stats:
        """Trains policies, critics and Q networks."""
        stats = super().update(learner, batch, info)
        for module_id in self.module_ids:
            learner.unwrapped(module_id).update_target()
        return stats


def shaping_term(past: Tensor, future: Tensor, is_first: Tensor, decay: Tensor) -> Tensor:
    """Computes ``sum over j of [sum over t < k of decay^(k - 1 - t) past_j(t)] * future_j(k)``, within episodes.

    Args:
        past: ``[B, T, N - 1]``, for each co-player j the agent's TD error, times the probability with which j's
            softmax policy would have taken another action.
        future: ``[B, T, N - 1]``, return of each co-player minus its value.
        is_first: ``[B, T]`` bool, True in the first step of an episode.
        decay: ``[B, T]``, discount times the decay of shaping.

    Returns:
        ``[B, T]``.
    """
    result, running = torch.empty_like(past[..., 0]), torch.zeros_like(past[:, 0])
    for t in range(past.shape[1]):
        running = torch.where(is_first[:, t, None], 0.0, running)
        result[:, t] = (running * future[:, t]).sum(-1)
        running = decay[:, t, None] * running + past[:, t]
    return result


class LOQAStep(AdvantageStep):
    """Adds to advantages the effect of an action on co-players that act by a softmax of their Q-values.

    The gradient of ``A_i(t) log pi_j(b_t)`` through j's return, with ``pi_j = softmax(Q_j / temperature)``, is a policy
    gradient with the advantage ``gamma / temperature * shaping_term``. Both factors are divided by their standard
    deviation, so that the weight, which includes ``1 / temperature``, does not depend on the scale of rewards.

    Source: Aghajohari, Duque et al., "LOQA: Learning with Opponent Q-Learning Awareness", ICLR 2024.
    """

    def __call__(self, batch: RolloutBatch) -> None:
        """Changes advantages, and adds the actions of co-players and the targets of their Q-values to the columns."""
        gamma = self.learner.members.gamma.lookup(batch.pool_members).expand_as(batch.rewards)
        td_errors = batch.shaped_rewards + gamma * batch.next_values - batch.values
        mask = self.context.mask(batch).where(self.flags, batch.advantages)
        result = batch.advantages.clone()
        for seat in (seat for seat in self.context.seats() if self.flags[seat.agent][seat.member]):
            i, module_id = seat.agent, seat.module_id
            config, columns = self.config.get_config_for_module(module_id), batch.modules[module_id]
            slot = self.context.agents_of(module_id).index(i)
            co_players = (i + torch.arange(1, self.context.num_agents, device=mask.device)) % self.context.num_agents
            actions, rewards = batch.actions[..., co_players], batch.shaped_rewards[..., co_players]
            q_values, values, next_values = self._co_player_values(module_id, slot, batch, config.q_temperature)
            future = generalized_advantages(
                rewards, values, next_values, batch.ended, gamma=config.gamma, lambda_=config.lambda_
            )
            # The Q-value of the action that j took is replaced by j's return, of which the gradient is taken.
            q_values = q_values.scatter(-1, actions[..., None], (future + values)[..., None])
            unlikely = 1.0 - (q_values / config.q_temperature).softmax(-1).gather(-1, actions[..., None])[..., 0]
            co_player_mask = mask[..., i, None].expand_as(future)
            past = td_errors[..., i, None] / deviation(td_errors[..., i], (0, 1), mask[..., i])[..., None]
            term = shaping_term(
                unlikely * past,
                future / deviation(future, (0, 1), co_player_mask),
                batch.is_first,
                gamma[..., i] * config.shaping_decay,
            )
            advantages = batch.advantages[..., i] / deviation(batch.advantages[..., i], (0, 1), mask[..., i])
            shaped_advantages = advantages + config.shaping_weight * config.gamma * term
            result[..., i] = torch.where(mask[..., i], shaped_advantages, result[..., i])
            shape = (*columns.steps[Columns.ACTIONS].shape, len(co_players))
            for name, column in ((CO_PLAYER_ACTIONS, actions), (Q_TARGETS, future + values)):
                columns.steps.setdefault(name, column.new_zeros(shape))[:, slot] = column
        batch.advantages = result

    def _co_player_values(
        self, module_id: str, slot: int, batch: RolloutBatch, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns Q-values ``[B, T, N - 1, A]``, and values before and after each step, ``[B, T, N - 1]``."""
        estimator, module = self.learner.value_estimator, self.learner.unwrapped(module_id)

        def expected(q_values: Tensor) -> Tensor:
            return ((q_values / temperature).softmax(-1) * q_values).sum(-1)

        q_values, last, final = estimator.without_memory(module.compute_target_q_values, batch.modules[module_id])
        final_values = None if final is None else expected(final)
        values = expected(q_values)
        next_values = estimator.next_values(module_id, batch, values, expected(last), final_values)
        return q_values[:, slot], values[:, slot], next_values[:, slot]


class LOQAConfig(BatchedConfig):
    """Configuration of :class:`LOQA`, with the settings of ``loqa`` players in the registry."""

    default_player = "loqa"

    def __init__(self, algo_class: type | None = None) -> None:
        """Sets the defaults, which are tuned for the iterated prisoner's dilemma."""
        super().__init__(algo_class=algo_class or LOQA)
        self.num_envs_per_env_runner = 256
        self.lambda_ = 0.95
        self.bootstrap_at_horizon = True


class LOQA(BatchedAlgorithm):
    """PPO with the effect of actions on co-players that learn Q-values (:class:`LOQAStep`)."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> LOQAConfig:
        """Returns the default configuration."""
        return LOQAConfig(algo_class=cls)
