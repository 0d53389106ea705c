"""Settings and statistics that differ between the pool members of an agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rllib_reciprocator.engine.masks import MemberSetting
from rllib_reciprocator.engine.update_rule import UpdateRule

if TYPE_CHECKING:
    from rllib_reciprocator.engine.learner import BatchedLearner
    from rllib_reciprocator.engine.rollout_batch import RolloutBatch

# Maps the configuration of a module and the class of its rule to a setting.
SettingFunction = Callable[[Any, type[UpdateRule]], float | bool]


class _NoRule(UpdateRule):
    """Placeholder for the rule of agents without trained pool members."""

    needs_critic = False


class MemberSettings:
    """Settings of all pool members, and statistics over the steps in which each of them plays.

    Attributes:
        gamma: Discount factor.
        lambda_: GAE parameter; 1 for update rules that learn from returns.
        has_critic: True for players with a critic.
        centered: True for players from whose returns the mean over episodes is subtracted.
    """

    def __init__(self, learner: BatchedLearner) -> None:
        """Collects the settings.

        Args:
            learner: The learner, with built modules.
        """
        self._learner, self._context, self._device = learner, learner.context, learner.device
        # Statistics are computed for each pool member separately. Every turn flags at most one trained pool member per
        # agent, so that one masked computation covers one pool member of all agents.
        trained_indices = [
            [index for index, module_id in enumerate(ids) if module_id in self._context.trained]
            for ids in self._context.module_ids
        ]
        self._turns = []
        for turn in range(max(len(indices) for indices in trained_indices)):
            flags = []
            for ids, indices in zip(self._context.module_ids, trained_indices, strict=True):
                current = indices[turn : turn + 1]
                flags.append(torch.tensor([index in current for index in range(len(ids))], device=self._device))
            self._turns.append(flags)
        use_baseline = learner.config.use_baseline
        self.gamma = self.setting(lambda config, rule: config.gamma)
        self.lambda_ = self.setting(lambda config, rule: config.lambda_ if rule.uses_lambda else 1.0)
        self.has_critic = self.setting(lambda config, rule: rule.needs_critic)
        self.centered = self.setting(lambda config, rule: rule.centers_returns and use_baseline)
        spans_meta = self._context.member_flags(
            lambda player: player.learns and self._context.kind_of(player).spans_meta_episodes, self._device
        )
        self._spans_meta = MemberSetting([flags.tolist() for flags in spans_meta], self._device)

    def setting(self, function: SettingFunction) -> MemberSetting:
        """Returns a setting of all pool members.

        Pool members that are not trained get the value of the first trained member of their pool, because their steps
        are masked and equal values avoid a lookup per step.

        Args:
            function: Returns the setting from the configuration of a module and the class of its rule, which is
                ``UpdateRule`` for a pool without trained members.
        """
        config, values = self._learner.config, []
        for ids in self._context.module_ids:
            settings = {
                module_id: function(config.get_config_for_module(module_id), type(self._learner.rule_of[module_id]))
                for module_id in ids
                if module_id in self._context.trained
            }
            default = next(iter(settings.values())) if settings else function(config, _NoRule)
            values.append([settings.get(module_id, default) for module_id in ids])
        return MemberSetting(values, self._device)

    def over_members(
        self, batch: RolloutBatch, function: Callable[[Tensor, Tensor | None], Tensor], values: Tensor
    ) -> Tensor:
        """Applies a masked function to each trained pool member separately, over the steps in which it plays.

        Args:
            batch: The rollout.
            function: Maps values ``[B, T, N]`` and the mask of the steps that count, ``[B, T, N]`` or None, to values
                of the same shape.
            values: ``[B, T, N]``.

        Returns:
            ``[B, T, N]``; unchanged in steps of pool members that are not trained.
        """
        if batch.pool_members is None:
            return function(values, None if batch.valid is None else batch.valid[..., None].expand_as(values))
        rollout_mask, result = self._context.mask(batch), values
        for flags in self._turns:
            mask = rollout_mask.where(flags, values)
            result = torch.where(mask, function(values, mask), result)
        return result

    def ends(self, batch: RolloutBatch) -> Tensor:
        """Returns the ends of values: ``[B, T]``, or ``[B, T, N]`` with players whose values span meta-episodes."""
        if not self._context.samples_meta_episodes:
            return batch.ended
        spans_meta = self._spans_meta.lookup(batch.pool_members)
        return torch.where(spans_meta, _last_steps(batch)[..., None], batch.ended[..., None])

    def ends_of(self, module_id: str, batch: RolloutBatch) -> Tensor:
        """Returns the ends of a module's values, ``[B, T]`` bool."""
        player = self._context.player_of(module_id)
        if self._context.samples_meta_episodes and self._context.kind_of(player).spans_meta_episodes:
            return _last_steps(batch)
        return batch.ended


def _last_steps(batch: RolloutBatch) -> Tensor:
    """Returns a mask of the last step of the rollout, ``[B, T]`` bool."""
    last = torch.zeros_like(batch.ended)
    last[:, -1] = True
    return last
