"""Reciprocity as an intrinsic reward of the batched engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec

from rllib_reciprocator.engine.intrinsic_reward import IntrinsicReward
from rllib_reciprocator.intrinsic.reciprocity.estimator_rule import EstimatorRule
from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import InfluenceEstimator
from rllib_reciprocator.intrinsic.reciprocity.estimators.reward_model import MODELLED, POLICY, UNIFORM
from rllib_reciprocator.intrinsic.reciprocity.settings import ReciprocitySettings, rewards
from rllib_reciprocator.intrinsic.reciprocity.specs import BALANCE_INPUT, INFLUENCE_MODULE_ID, estimator_specs
from rllib_reciprocator.intrinsic.reciprocity.tracker import InfluenceTracker
from rllib_reciprocator.models.policy_inputs import PolicyInput

if TYPE_CHECKING:
    from rllib_reciprocator.engine.config import BatchedConfig
    from rllib_reciprocator.engine.update_rule import UpdateRule
    from social_dilemmas.batched_game import BatchedGame


class Reciprocity(IntrinsicReward[ReciprocitySettings]):
    """Reward for reciprocating the influence that other agents had on the agent's return.

    Source: Zhou, Hong and Kao, "Reciprocal Reward Influence Encourages Cooperation From Self-Interested Agents",
    NeurIPS 2024.
    """

    settings_class = ReciprocitySettings
    label: ClassVar[str] = "reciprocal"
    weight_logged_with: ClassVar[str] = INFLUENCE_MODULE_ID

    def check(self) -> None:
        """Checks how policies use the balance, and that returns are known if the estimator is trained on them."""
        for (agent, member), settings in self.settings.items():
            if not settings.predict_balance_coeff:
                continue
            if settings.observe_balance:
                raise ValueError(
                    "reciprocity.predict_balance_coeff: the balance is observed; set it to 0, or observe_balance to"
                    " false"
                )
            player = self.context.players[agent].pool_members[member][0]
            if not self.context.rule_class(player).trains_predictions:
                raise ValueError(
                    f"reciprocity.predict_balance_coeff: only for players trained by PPO, not for {player.algorithm}"
                )
        if self.default.future_weight and self.module_specs() and not self.context.whole_episodes:
            raise ValueError(
                "reciprocity.future_weight: needs complete episodes of fixed length (rollout_fragment_length auto)"
            )

    @classmethod
    def build_module_specs(
        cls, game: BatchedGame, settings: ReciprocitySettings, gamma: float
    ) -> dict[str, RLModuleSpec]:
        """Builds the spec of the influence estimator."""
        return estimator_specs(game, settings, gamma)

    def policy_inputs(self, settings: ReciprocitySettings) -> list[PolicyInput]:
        """Returns the balance towards every other agent, if the policy observes or predicts it."""
        predicts = settings.predict_balance_coeff > 0
        if not (settings.observe_balance or predicts):
            return []
        return [
            PolicyInput(
                BALANCE_INPUT,
                self.context.num_agents - 1,
                scale=settings.balance_scale,
                predicted=predicts,
                loss_coeff=settings.predict_balance_coeff,
                loss_name="balance_loss",
            )
        ]

    def needs_probabilities(self, specs: Mapping[str, RLModuleSpec]) -> str:
        """Returns why action probabilities are needed, if an estimator computes expectations over them."""
        for spec in specs.values():
            estimator = spec.module_class
            if issubclass(estimator, InfluenceEstimator) and estimator.needs_behavior(spec.model_config or {}):
                return f"which counterfactual {POLICY} needs; set reciprocity.counterfactual to {MODELLED} or {UNIFORM}"
        return ""

    def tracker(self, game: BatchedGame, modules: Mapping[str, RLModule]) -> InfluenceTracker:
        """Builds the tracker of influence and balances."""
        return InfluenceTracker(
            game,
            self.tracked_settings(),
            default=self.default,
            modules=modules,
            suffixes=self.module_suffixes(),
        )

    def update_rules(self, config: BatchedConfig) -> list[UpdateRule]:
        """Returns the rule that trains the influence estimator."""
        if not self.module_specs():
            return []
        return [EstimatorRule(self.context, (INFLUENCE_MODULE_ID,), config)]

    rewards = staticmethod(rewards)
