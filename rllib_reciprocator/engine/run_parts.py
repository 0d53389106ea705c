"""Builds the parts of a run from its configuration: intrinsic rewards, trackers, update rules and advantage steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rllib_reciprocator.engine.advantages import GeneralizedAdvantages, JointScale, MeanBaseline, NormalizedReturns
from rllib_reciprocator.engine.context import RunContext
from rllib_reciprocator.engine.intrinsic_reward import FrozenDependency, IntrinsicReward
from rllib_reciprocator.engine.players_config import PlayersConfig
from rllib_reciprocator.engine.registries import intrinsic_reward
from rllib_reciprocator.engine.update_rule import AdvantageStep, UpdateRule
from rllib_reciprocator.utils.import_paths import import_attribute

if TYPE_CHECKING:
    from ray.rllib.core.rl_module.rl_module import RLModule

    from rllib_reciprocator.engine.learner import BatchedLearner
    from rllib_reciprocator.engine.tracker import StepTracker
    from social_dilemmas.batched_game import BatchedGame


class RunPartsConfig(PlayersConfig):
    """Configuration that builds the parts of a validated run, in every process anew."""

    normalize_returns: bool
    scale_advantages: bool
    use_baseline: bool

    def context(self) -> RunContext:
        """Returns the facts about the run that its parts share."""
        game = self.make_game()
        module_ids = tuple(tuple(module_id for module_id, _ in pool) for pool in self._alternatives)
        trained_seats = {
            module_ids[index][member_index]: None
            for index, player in enumerate(self.assigned_players)
            for member_index, (member, _) in enumerate(player.pool_members)
            if member.learns
        }
        return RunContext(
            game=game,
            players=self.assigned_players,
            kinds=self.player_kinds(),
            module_ids=module_ids,
            trained=tuple(trained_seats),
            gamma=self.gamma,
            rollout_steps=self.rollout_steps(),
            whole_episodes=self.plays_whole_episodes(game),
            completes_episodes=self.completes_episodes(),
            samples_meta_episodes=self.samples_meta_episodes,
            meta=self.meta_settings,
            group_size=self.group_size(),
            num_environments=self.num_environments,
            environments_per_runner=self.num_envs_per_env_runner,
            in_evaluation=self.in_evaluation,
            seed=self.seed,
        )

    def build_intrinsic_rewards(self, context: RunContext) -> list[IntrinsicReward[Any]]:
        """Builds the intrinsic rewards of players and of frozen policies, and those whose settings always ask for them.

        Args:
            context: Facts about the run.
        """
        by_player = self.intrinsic_by_player()
        frozen_names = [name for dependencies in self._brought.values() for name in dependencies]
        always = [name for name, settings in self.intrinsic_settings.items() if settings.always]
        rewards = []
        for name in dict.fromkeys([*by_player, *frozen_names, *always]):
            frozen = {}
            for agent, dependencies in self._brought.items():
                if name in dependencies:
                    settings, suffix, slot = dependencies[name]
                    frozen[agent] = FrozenDependency(settings, suffix, slot, self._brought_by[agent][name])
            default = self.intrinsic_of_all(name, context.game)
            rewards.append(intrinsic_reward(name)(name, context, default, by_player.get(name, {}), frozen))
        return rewards

    def build_trackers(self, game: BatchedGame, modules: Mapping[str, RLModule]) -> list[StepTracker]:
        """Builds the trackers of players and intrinsic rewards.

        Args:
            game: The parallel environments.
            modules: All RLModules, by id.
        """
        context = self.context()
        trackers = []
        for seat in context.seats():
            source = seat.player.player_source
            if source is not None:
                trackers.append(source.tracker(game, modules[seat.module_id].unwrapped(), seat.agent))
        trackers += [reward.tracker(game, modules) for reward in self.build_intrinsic_rewards(context)]
        return [tracker for tracker in trackers if tracker is not None]

    def build_update_rules(
        self, context: RunContext, intrinsic_rewards: Sequence[IntrinsicReward[Any]]
    ) -> list[UpdateRule]:
        """Builds the update rules of policies and of the modules of intrinsic rewards, in the order in which they run.

        Args:
            context: Facts about the run.
            intrinsic_rewards: Intrinsic rewards of the run.
        """
        module_ids: dict[str, list[str]] = {}
        for module_id in context.trained:
            path = context.kind_of(context.player_of(module_id)).update_rule
            module_ids.setdefault(path, []).append(module_id)
        rules = [import_attribute(path)(context, ids, self) for path, ids in module_ids.items()]
        for reward in intrinsic_rewards:
            rules += reward.update_rules(self)
        return sorted(rules, key=lambda rule: rule.stage)

    def build_advantage_steps(self, learner: BatchedLearner) -> list[AdvantageStep]:
        """Builds the changes of advantages: those of the run, with those of the kinds of players in between.

        Args:
            learner: The built learner.
        """
        steps: list[AdvantageStep] = [GeneralizedAdvantages(learner)]
        if self.use_baseline and any(rule.centers_returns for rule in learner.rules):
            steps.append(MeanBaseline(learner))
        if self.normalize_returns:
            steps.append(NormalizedReturns(learner))
        steps += [import_attribute(path)(learner, path) for path in self._advantage_step_paths()]
        if self.scale_advantages:
            steps.append(JointScale(learner))
        return steps

    def _advantage_step_paths(self) -> list[str]:
        """Returns the import paths of the advantage steps of all trained players, in the order of their kinds."""
        members = [member for player in self.assigned_players for member, _ in player.pool_members]
        names = {member.algorithm for member in members if member.learns}
        # The order is that of the kinds, so that it does not depend on the order of the players.
        paths = [path for name, kind in self.player_kinds().items() if name in names for path in kind.advantage_steps]
        return list(dict.fromkeys(paths))

    def warmup_iterations(self) -> int:
        """Returns the number of initial iterations in which policies are not trained.

        It is the largest number that a module which is not a policy has in its settings, including the modules of
        frozen policies.
        """
        specs = self.rl_module_spec.rl_module_specs
        shared_configs = [
            spec.model_config or {} for module_id, spec in specs.items() if module_id not in self.policies
        ]
        return max((settings.get("warmup_iterations", 0) for settings in shared_configs), default=0)

    def identifies_environments(self, game: BatchedGame) -> bool:
        """Returns True if rollouts contain the indices of their environments.

        Args:
            game: One environment of the game.
        """
        follows = any(import_attribute(path).follows_environments for path in self._advantage_step_paths())
        return follows and not self.plays_whole_episodes(game) and not self.in_evaluation

    def update_phases(self) -> list[str]:
        """Returns the phases of an update, each with a rollout of its own."""
        context = self.context()
        rules = self.build_update_rules(context, self.build_intrinsic_rewards(context))
        return list(dict.fromkeys(phase for rule in rules for phase in rule.phases))
