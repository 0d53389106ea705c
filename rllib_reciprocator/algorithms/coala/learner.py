"""The learner of COALA: PPO on what actions are credited with in meta-episodes."""

from __future__ import annotations

import torch
from ray.rllib.utils.annotations import override
from torch import Tensor

from rllib_reciprocator.algorithms.coala.config import COALA_PLAYER
from rllib_reciprocator.algorithms.coala.credit import assign_credit, leave_one_out_baseline
from rllib_reciprocator.engine.advantages import generalized_advantages
from rllib_reciprocator.engine.learner import BatchedLearner, Joint
from rllib_reciprocator.engine.masks import MEMBERS
from rllib_reciprocator.players import LEARNING, Player
from rllib_reciprocator.utils.distributed import deviation


class COALALearner(BatchedLearner):
    """Learns from whole meta-episodes, in which inner episodes end neither values nor credit."""

    @override(BatchedLearner)
    def build(self) -> None:
        """Notes who learns inside the environment, who is trained, and whose credit spans meta-episodes."""
        super().build()
        self._learns_inside = self.member_flags(lambda player: player.kind == LEARNING)
        self._trained_players = self.member_flags(self.learns_from_credit)
        self._meta_players = self.member_flags(lambda player: player.algorithm == COALA_PLAYER)
        # Whether others are trained too.
        self._trains_others = any(
            bool((trained & ~meta).any())
            for trained, meta in zip(self._trained_players, self._meta_players, strict=True)
        )

    def learns_from_credit(self, player: Player) -> bool:
        """Whether what single actions are credited with changes a player."""
        return player.learns

    @override(BatchedLearner)
    def joint_columns(self, parts: dict[str, dict[str, Tensor]]) -> Joint:
        """As in other algorithms, but that only meta-episodes end; where inner episodes do is ``inner_ended``."""
        joint = super().joint_columns(parts)
        joint["inner_ended"] = joint["ended"]
        joint["ended"] = torch.zeros_like(joint["ended"])
        joint["ended"][:, -1] = True
        return joint

    @override(BatchedLearner)
    def observe(self, joint: Joint) -> None:
        """What learns beside the policies learns from inner episodes."""
        super().observe({**joint, "ended": joint["inner_ended"]})

    @override(BatchedLearner)
    def shape_rewards(self, joint: Joint) -> Tensor:
        """What agents get, in the scale of their critics."""
        return self.config.reward_scale * super().shape_rewards(joint)

    @override(BatchedLearner)
    def advantages(self, joint: Joint) -> tuple[Tensor, Tensor]:
        """What actions are credited with, and value targets, of the own copy alone; of others, of inner episodes."""
        rewards, before, after = joint["shaped_rewards"], joint["values"], joint["next_values"]
        gamma, lambda_ = self._gamma.lookup(joint), self._lambda.lookup(joint)
        own = generalized_advantages(rewards, before, after, joint["ended"], gamma=gamma, lambda_=lambda_)
        meta, beside = self.config.meta_settings, self._learns_beside(joint)
        credit = assign_credit(
            rewards + gamma * after - before,
            beside,
            inner_steps=self._horizon,
            copies=meta.copies,
            # One player plays an agent in a whole meta-episode, so that its first step has the decay of all.
            decay=(gamma * lambda_) if gamma.dim() == lambda_.dim() == 1 else (gamma * lambda_)[:, 0],
            credit=meta.credit,
        )
        is_meta = self._which(self._meta_players, joint)
        if meta.center:
            for of_kind in (beside & is_meta, ~beside & is_meta):
                credit = leave_one_out_baseline(credit, of_kind, meta.copies)
        targets = own + before
        if self._trains_others:
            ends = joint["inner_ended"]
            of_inner = {"ended": ends, "next_values": torch.where(ends[..., None], 0.0, after)}
            credit, targets = (
                torch.where(is_meta[:, None], *each)
                for each in zip((credit, targets), super().advantages({**joint, **of_inner}), strict=True)
            )
        return credit, targets

    @override(BatchedLearner)
    def transform_advantages(self, joint: Joint, advantages: Tensor) -> Tensor:
        """In units of their deviation, of all that policies learn from together."""
        if not self.config.scale_advantages:
            return advantages
        learned_from = advantages.transpose(1, 2)[self._which(self._trained_players, joint)]
        return advantages / deviation(learned_from, (0, 1))

    def _learns_beside(self, joint: Joint) -> Tensor:
        """``[B, N]`` bool, whether anybody beside an agent learns inside the environment."""
        learns = self._which(self._learns_inside, joint).long()
        return learns.sum(1, keepdim=True) - learns > 0

    @staticmethod
    def _which(of_alternatives: list[Tensor], joint: Joint) -> Tensor:
        """``[B, N]`` bool, whether something holds for who plays an agent, from whether it does for pool members."""
        games = len(joint["rewards"])
        return torch.stack(
            [
                each.expand(games) if len(each) == 1 else each[joint[MEMBERS][:, 0, agent]]
                for agent, each in enumerate(of_alternatives)
            ],
            1,
        )
