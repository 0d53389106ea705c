"""Interface of intrinsic rewards: what they add to rewards, policies, modules, trackers, update rules and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from torch import Tensor

from rllib_reciprocator.engine.context import RunContext
from rllib_reciprocator.models.policy_inputs import PolicyInput
from rllib_reciprocator.utils.settings import IntrinsicSettings

if TYPE_CHECKING:
    from rllib_reciprocator.engine.config import BatchedConfig
    from rllib_reciprocator.engine.learner import BatchedLearner
    from rllib_reciprocator.engine.rollout_batch import RolloutBatch
    from rllib_reciprocator.engine.tracker import StepTracker
    from rllib_reciprocator.engine.update_rule import UpdateRule
    from social_dilemmas.batched_game import BatchedGame

S = TypeVar("S", bound=IntrinsicSettings)


@dataclass(frozen=True)
class FrozenDependency(Generic[S]):
    """Dependency of a frozen policy on an intrinsic reward of the run that trained it.

    Attributes:
        settings: Settings of the intrinsic reward in that run.
        suffix: Suffix that the ids of its modules have in this run; empty if it uses the modules of this run.
        slot: Index of the policy's agent in that run.
        member: Index of the frozen policy among the pool members of its agent.
    """

    settings: S
    suffix: str
    slot: int
    member: int = 0


class IntrinsicReward(Generic[S]):
    """Base class of intrinsic rewards, which add rewards, policy inputs or modules to agents.

    Instances are stateless: each process builds its own from the configuration. State that follows environment steps
    belongs to :meth:`tracker`, parameters to :meth:`module_specs`.

    Attributes:
        settings_class: Class of the settings.
        label: Prefix of metrics; empty for the name.
        weight_logged_with: Id of the module under which the weight is logged; empty for the module of the player.
    """

    settings_class: ClassVar[type[IntrinsicSettings]] = IntrinsicSettings
    label: ClassVar[str] = ""
    weight_logged_with: ClassVar[str] = ""

    def __init__(
        self,
        name: str,
        context: RunContext,
        default: S,
        settings: Mapping[tuple[int, int], S],
        frozen: Mapping[int, FrozenDependency[S]],
    ) -> None:
        """Stores the settings.

        Args:
            name: Name in ``intrinsic``.
            context: Facts about the run.
            default: Settings of agents without this reward.
            settings: Settings of the players that have this reward, by index of the agent and of the pool member.
            frozen: Dependencies of frozen policies, by index of the agent.
        """
        self.name, self.context, self.default, self.settings, self.frozen = name, context, default, settings, frozen

    def check(self) -> None:
        """Checks the settings of all players.

        Raises:
            ValueError: If a setting does not fit the run; the message names the setting and a fix.
        """

    @classmethod
    def build_module_specs(cls, game: BatchedGame, settings: S, gamma: float) -> dict[str, RLModuleSpec]:
        """Builds the specs of the modules that the reward needs in addition to policies, by module id.

        Args:
            game: One environment of the game.
            settings: The settings.
            gamma: Discount factor.

        Raises:
            ValueError: If a setting is invalid in this game.
        """
        return {}

    def module_specs(self) -> dict[str, RLModuleSpec]:
        """Returns the specs of the modules that the reward needs in this run; none if only frozen policies have it."""
        if not self.settings and not self.default.always:
            return {}
        return self.build_module_specs(self.context.game, self.default, self.context.gamma)

    def policy_inputs(self, settings: S) -> list[PolicyInput]:
        """Returns the columns that policies with this reward observe or predict."""
        return []

    def acts_with_policy(self, settings: S) -> bool:
        """Returns True if a frozen policy with this reward needs its trackers and modules to act as it was trained."""
        return bool(self.policy_inputs(settings))

    def needs_probabilities(self, specs: Mapping[str, RLModuleSpec]) -> str:
        """Returns why policies must return action probabilities, for error messages; empty if they need not.

        Args:
            specs: Specs of all modules that are not policies, by module id.
        """
        return ""

    def tracker(self, game: BatchedGame, modules: Mapping[str, RLModule]) -> StepTracker | None:
        """Builds the step tracker that env runners call in every step; None if there is none.

        Args:
            game: The parallel environments.
            modules: All modules, by id.
        """
        return None

    def update_rules(self, config: BatchedConfig) -> list[UpdateRule]:
        """Returns the update rules that train the modules of :meth:`module_specs`.

        Args:
            config: Configuration of the run.
        """
        return []

    def refresh(self, batch: RolloutBatch, learner: BatchedLearner) -> None:
        """Recomputes columns of a rollout with the learner's modules, before anything is computed from them."""

    def payments(self, batch: RolloutBatch) -> Tensor | None:
        """Returns payments between agents, ``[B, T, N]``; None without payments.

        Payments are received by all agents, with or without this reward, and have no weight. Estimators, e.g. of
        influence, predict rewards with payments; :meth:`rewards` takes rewards without them.
        """
        return None

    @staticmethod
    def rewards(columns: Mapping[str, Tensor], settings: Any) -> Tensor | None:
        """Computes the unweighted reward of every agent, as if all agents had these settings.

        The engine calls it once for all players with equal settings, weights the result, masks pool members and logs
        statistics.

        Args:
            columns: ``rewards`` (extrinsic) and ``actions``, ``[.., T, N]``, the columns of trackers, and with pools or
                early ends of episodes ``loss_mask``, ``[.., T, N]`` bool, the steps that count.
            settings: The settings.

        Returns:
            ``[.., T, N]``; None if these settings give no reward.
        """
        return None

    def tracked_settings(self) -> list[S | None]:
        """Returns the settings of each agent that has this reward or a frozen policy with it; None for other agents."""
        settings: list[S | None] = [None] * self.context.num_agents
        for (agent, _), player_settings in self.settings.items():
            settings[agent] = player_settings
        for agent, dependency in self.frozen.items():
            settings[agent] = dependency.settings
        return settings

    def tracked_members(self) -> list[int]:
        """Returns for each agent the index of the pool member that has this reward; 0 for other agents."""
        members = [0] * self.context.num_agents
        for agent, member in self.settings:
            members[agent] = member
        for agent, dependency in self.frozen.items():
            members[agent] = dependency.member
        return members

    def module_suffixes(self) -> list[str]:
        """Returns for each agent the suffix of the ids of the reward's modules that it uses."""
        return [self.frozen[agent].suffix if agent in self.frozen else "" for agent in range(self.context.num_agents)]

    def slots(self) -> list[int]:
        """Returns the index of every agent in the run that trained the reward's modules."""
        return [self.frozen[agent].slot if agent in self.frozen else agent for agent in range(self.context.num_agents)]
