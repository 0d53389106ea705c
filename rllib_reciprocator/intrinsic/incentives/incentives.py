"""Incentives as an intrinsic reward of the batched engine: payments between agents, and their cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from torch import Tensor

from rllib_reciprocator.engine.intrinsic_reward import IntrinsicReward
from rllib_reciprocator.intrinsic.incentives.giving import (
    Giving,
    agents_with_advantages,
    function_inputs,
    givers_of,
    recipients_of,
)
from rllib_reciprocator.intrinsic.incentives.look_ahead_rule import LookAheadRule
from rllib_reciprocator.intrinsic.incentives.sampled_rule import SampledIncentiveRule
from rllib_reciprocator.intrinsic.incentives.settings import (
    GIVEN,
    INCENTIVES,
    RECEIVED,
    IncentiveSettings,
    received,
    rewards,
)
from rllib_reciprocator.intrinsic.incentives.specs import INCENTIVES_MODULE_ID, incentive_specs, pays
from rllib_reciprocator.intrinsic.incentives.tracker import IncentiveTracker
from rllib_reciprocator.models.policy_inputs import PolicyInput

if TYPE_CHECKING:
    from rllib_reciprocator.engine.config import BatchedConfig
    from rllib_reciprocator.engine.learner import BatchedLearner
    from rllib_reciprocator.engine.player_mapping import Player
    from rllib_reciprocator.engine.rollout_batch import RolloutBatch
    from rllib_reciprocator.engine.update_rule import UpdateRule
    from social_dilemmas.batched_game import BatchedGame

LOOK_AHEAD = "look_ahead"


class Incentives(IntrinsicReward[IncentiveSettings]):
    """Rewards that agents give each other, by learned functions of the other agents' actions.

    Source: Yang et al., "Learning to Incentivize Other Learning Agents", NeurIPS 2020.
    """

    settings_class = IncentiveSettings
    label: ClassVar[str] = "incentive_cost"
    rewards = staticmethod(rewards)

    def check(self) -> None:
        """Checks that incentives have recipients, and that rollouts are whole episodes."""
        givers, context = givers_of(self.context), self.context
        if not givers:
            return
        pools = [player.agent for player in context.players if len(player.pool_members) > 1]
        if self.default.opponents == "modelled" and pools:
            raise ValueError(
                f"incentives.opponents: modelled needs a single policy per agent, but players.{pools[0]} is a pool; set"
                " it to known"
            )
        if self.default.learned_by == LOOK_AHEAD:
            learning = agents_with_advantages(context)
        else:
            learning = recipients_of(context)
            self._check_givers_have_advantages()
        for giver in givers:
            if not set(learning) - {giver} and not context.in_evaluation:
                player = context.players[giver]
                raise ValueError(
                    f"players.{player.agent}: incentives need another agent that is trained on advantages, but there is"
                    f" none; set {{player: {player.written}, gives: false}}, or give another agent a trainable player,"
                    " e.g. pg"
                )
        if not context.whole_episodes:
            raise ValueError("batch_mode: incentives are trained on whole episodes; set it to complete_episodes")

    def _check_givers_have_advantages(self) -> None:
        """Raises ValueError if a giver is trained without advantages, which sampled incentives are trained on."""
        for seat in self.context.seats():
            player = seat.player
            gives = player.learns and INCENTIVES in player.intrinsic
            if gives and not self.context.rule_class(player).uses_advantages:
                raise ValueError(
                    f"incentives.learned_by: policy_gradient needs the advantages of givers, and {player.algorithm} is"
                    " trained without; set it to look_ahead"
                )

    @classmethod
    def build_module_specs(
        cls, game: BatchedGame, settings: IncentiveSettings, gamma: float
    ) -> dict[str, RLModuleSpec]:
        """Builds the specs of incentive functions and opponent models."""
        return incentive_specs(game, settings, gamma)

    def module_specs(self) -> dict[str, RLModuleSpec]:
        """Returns the specs; recipients are the trained agents, and critics exist if policies have them."""
        specs = super().module_specs()
        if INCENTIVES_MODULE_ID in specs:
            givers, context = givers_of(self.context), self.context
            has_critic = any(
                context.rule_class(member).needs_critic
                for index in givers
                for member, _ in context.players[index].pool_members
                if member.learns
            )
            specs[INCENTIVES_MODULE_ID].model_config |= {
                "pays": pays(givers, recipients_of(context), context.num_agents),
                "critic": bool(givers) and self.default.learned_by == LOOK_AHEAD and has_critic,
            }
        return specs

    def policy_inputs(self, settings: IncentiveSettings) -> list[PolicyInput]:
        """Returns the sums of the incentives that the agent has given, if policies observe them."""
        return [PolicyInput(GIVEN, self.context.num_agents - 1)] if settings.observe_given else []

    def acts_with_policy(self, settings: IncentiveSettings) -> bool:
        """Returns True: giving is part of how the agent acts."""
        return True

    def tracker(self, game: BatchedGame, modules: Mapping[str, RLModule]) -> IncentiveTracker:
        """Builds the tracker that computes the incentives of every step."""
        return IncentiveTracker(
            game,
            self.tracked_settings(),
            modules=modules,
            suffixes=self.module_suffixes(),
            slots=self.slots(),
            numbers=self.tracked_members(),
            recipients=[
                [self._is_recipient(member) for member, _ in player.pool_members] for player in self.context.players
            ],
        )

    def _is_recipient(self, member: Player) -> bool:
        """Returns True if a pool member receives incentives: trained players, and in evaluation frozen policies."""
        source = member.player_source
        return member.learns or (self.context.in_evaluation and source is not None and source.is_frozen)

    def update_rules(self, config: BatchedConfig) -> list[UpdateRule]:
        """Returns the rule that trains incentive functions, and models of co-players if there are any."""
        if not givers_of(self.context):
            return []
        rule = LookAheadRule if self.default.learned_by == LOOK_AHEAD else SampledIncentiveRule
        return [rule(self.context, tuple(self.module_specs()), config, self.default)]

    def refresh(self, batch: RolloutBatch, learner: BatchedLearner) -> None:
        """Recomputes incentives, since incentive functions may have been updated since the rollout was sampled.

        Sampled incentives are part of the behavior policy and stay as they are.
        """
        if not givers_of(self.context):
            return
        functions = learner.unwrapped(INCENTIVES_MODULE_ID)
        if functions.drawn:
            return
        giving = Giving(self.context, learner.device)
        incentives = functions.incentives(*function_inputs(self.context, functions, batch))
        incentives = incentives.unflatten(0, batch.ended.shape) * giving.receiving(batch)[..., None, :]
        incentives = torch.where(giving.giving(batch)[..., None], incentives, batch.columns[INCENTIVES])
        batch.columns[INCENTIVES], batch.columns[RECEIVED] = incentives, received(incentives)

    def payments(self, batch: RolloutBatch) -> Tensor | None:
        """Returns the incentives that each agent receives."""
        return batch.columns.get(RECEIVED)
