"""Credit over meta-episodes as an advantage step of ``coala`` players."""

from __future__ import annotations

import torch

from rllib_reciprocator.algorithms.coala.rules import assign_credit, leave_one_out_baseline
from rllib_reciprocator.algorithms.coala.settings import COALASettings
from rllib_reciprocator.engine.learner import BatchedLearner
from rllib_reciprocator.engine.rollout_batch import RolloutBatch
from rllib_reciprocator.engine.update_rule import AdvantageStep


class MetaEpisodeCredit(AdvantageStep):
    """Replaces GAE advantages by the credit of actions for the rest of a meta-episode, in all environments of a group.

    Value targets stay those of the agent's own environment.
    """

    def __init__(self, learner: BatchedLearner, path: str = "") -> None:
        """Flags online learners, in addition to the players that have this step."""
        super().__init__(learner, path)
        self._online_learners = self.context.member_flags(
            lambda player: player.player_source is not None and player.player_source.is_online_learner, learner.device
        )

    def __call__(self, batch: RolloutBatch) -> None:
        """Changes advantages."""
        members, meta = batch.pool_members, self.context.meta
        assert isinstance(meta, COALASettings)
        settings = self.learner.members
        gamma, lambda_ = settings.gamma.lookup(members), settings.lambda_.lookup(members)
        decay = gamma * lambda_
        # The same pool member plays an agent for a whole meta-episode, so those of the first step hold for all.
        mask = self.context.mask(batch)
        is_learner = mask.where(self._online_learners, batch.rewards)[:, 0].long()
        with_learners = is_learner.sum(1, keepdim=True) - is_learner > 0
        credit = assign_credit(
            batch.shaped_rewards + gamma * batch.next_values - batch.values,
            with_learners,
            inner_steps=self.context.game.horizon,
            copies=meta.copies,
            decay=decay if decay.dim() == 1 else decay[:, 0],
            credit=meta.credit,
        )
        has_credit = mask.where(self.flags, batch.rewards)[:, 0]
        if meta.center:
            # Credit follows another rule without online learners, so each kind has a baseline of its own.
            for credit_mask in (with_learners & has_credit, ~with_learners & has_credit):
                credit = leave_one_out_baseline(credit, credit_mask, meta.copies)
        batch.advantages = torch.where(has_credit[:, None], credit, batch.advantages)
