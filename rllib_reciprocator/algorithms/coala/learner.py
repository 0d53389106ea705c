"""Learner of COALA: PPO on the credit of actions over meta-episodes."""

from __future__ import annotations

import torch
from ray.rllib.utils.annotations import override
from torch import Tensor

from rllib_reciprocator.algorithms.coala.credit import assign_credit, leave_one_out_baseline
from rllib_reciprocator.engine.advantages import generalized_advantages
from rllib_reciprocator.engine.learner import BatchedLearner, Joint
from rllib_reciprocator.engine.masks import MEMBERS
from rllib_reciprocator.players import LEARNING, Player
from rllib_reciprocator.utils.distributed import deviation

COALA_PLAYER = "coala"


class COALALearner(BatchedLearner):
    """Learner for rollouts of whole meta-episodes. The end of an inner episode ends neither values nor credit."""

    @override(BatchedLearner)
    def build(self) -> None:
        """Builds the learner and flags pool members: online learners, trained players, and ``coala`` players."""
        super().build()
        self._learns_inside = self.member_flags(lambda player: player.kind == LEARNING)
        self._trained_players = self.member_flags(self.learns_from_credit)
        self._meta_players = self.member_flags(lambda player: player.algorithm == COALA_PLAYER)
        # True if players without credit over meta-episodes are trained too.
        self._trains_others = any(
            bool((trained & ~meta).any())
            for trained, meta in zip(self._trained_players, self._meta_players, strict=True)
        )

    def learns_from_credit(self, player: Player) -> bool:
        """Returns whether a player is trained on the credit of single actions."""
        return player.learns

    @override(BatchedLearner)
    def joint_columns(self, parts: dict[str, dict[str, Tensor]]) -> Joint:
        """Returns the columns of environment steps; ``ended`` marks meta-episodes, ``inner_ended`` inner episodes."""
        joint = super().joint_columns(parts)
        joint["inner_ended"] = joint["ended"]
        joint["ended"] = torch.zeros_like(joint["ended"])
        joint["ended"][:, -1] = True
        return joint

    @override(BatchedLearner)
    def observe(self, joint: Joint) -> None:
        """Trains influence estimators on inner episodes, not on meta-episodes."""
        super().observe({**joint, "ended": joint["inner_ended"]})

    @override(BatchedLearner)
    def shape_rewards(self, joint: Joint) -> Tensor:
        """Returns the rewards that agents are trained on, multiplied by ``reward_scale``."""
        return self.config.reward_scale * super().shape_rewards(joint)

    @override(BatchedLearner)
    def advantages(self, joint: Joint) -> tuple[Tensor, Tensor]:
        """Computes advantages and value targets, each ``[B, T, N]``.

        Advantages of ``coala`` players are the credit over meta-episodes; their value targets use their own environment
        only. Other trained players have GAE advantages and value targets of inner episodes.
        """
        rewards, values, next_values = joint["shaped_rewards"], joint["values"], joint["next_values"]
        gamma, lambda_ = self._gamma.lookup(joint), self._lambda.lookup(joint)
        advantages = generalized_advantages(rewards, values, next_values, joint["ended"], gamma=gamma, lambda_=lambda_)
        meta, with_learners = self.config.meta_settings, self._learns_beside(joint)
        credit = assign_credit(
            rewards + gamma * next_values - values,
            with_learners,
            inner_steps=self._horizon,
            copies=meta.copies,
            # The same pool member plays an agent for a whole meta-episode, so the first step's decay holds for all.
            decay=(gamma * lambda_) if gamma.dim() == lambda_.dim() == 1 else (gamma * lambda_)[:, 0],
            credit=meta.credit,
        )
        is_meta = self._which(self._meta_players, joint)
        if meta.center:
            # Credit follows another rule without online learners, so each kind has a baseline of its own.
            for mask in (with_learners & is_meta, ~with_learners & is_meta):
                credit = leave_one_out_baseline(credit, mask, meta.copies)
        targets = advantages + values
        if self._trains_others:
            inner_ended = joint["inner_ended"]
            inner_columns = {"ended": inner_ended, "next_values": torch.where(inner_ended[..., None], 0.0, next_values)}
            credit, targets = (
                torch.where(is_meta[:, None], *pair)
                for pair in zip((credit, targets), super().advantages({**joint, **inner_columns}), strict=True)
            )
        return credit, targets

    @override(BatchedLearner)
    def transform_advantages(self, joint: Joint, advantages: Tensor) -> Tensor:
        """Divides advantages by their standard deviation over all trained players."""
        if not self.config.scale_advantages:
            return advantages
        trained_advantages = advantages.transpose(1, 2)[self._which(self._trained_players, joint)]
        return advantages / deviation(trained_advantages, (0, 1))

    def _learns_beside(self, joint: Joint) -> Tensor:
        """Returns for each agent whether a co-player is an online learner, ``[B, N]`` bool."""
        is_learner = self._which(self._learns_inside, joint).long()
        return is_learner.sum(1, keepdim=True) - is_learner > 0

    @staticmethod
    def _which(of_alternatives: list[Tensor], joint: Joint) -> Tensor:
        """Looks up a property of the pool member that plays each agent, ``[B, N]`` bool.

        Args:
            of_alternatives: For each agent the property of each of its pool members, ``[members]`` bool.
            joint: Columns of environment steps.
        """
        batch_size = len(joint["rewards"])
        return torch.stack(
            [
                flags.expand(batch_size) if len(flags) == 1 else flags[joint[MEMBERS][:, 0, agent]]
                for agent, flags in enumerate(of_alternatives)
            ],
            1,
        )
