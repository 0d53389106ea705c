"""Learner of the batched engine: estimators, rewards, advantages and epochs, one overridable method per stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import ALL_MODULES
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    MODULE_TRAIN_BATCH_SIZE_MEAN,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    WEIGHTS_SEQ_NO,
)
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor

from rllib_reciprocator.engine.advantages import generalized_advantages, returns_after, subtract_mean
from rllib_reciprocator.engine.losses import ACTOR_CRITIC, POLICY_GRADIENT, PPO_LOSS, WITH_CRITIC, ppo_loss
from rllib_reciprocator.engine.masks import MEMBERS, VALID, MemberSetting, RolloutMask, before_end, count
from rllib_reciprocator.engine.minibatches import (
    TakeRows,
    TakeStreams,
    compute_in_chunks,
    flat_streams,
    memory_columns,
    with_state,
)
from rllib_reciprocator.engine.policy_gradients import PolicyGradientLearner
from rllib_reciprocator.engine.sample import FINAL, JOINT, LAST, STREAMS_PREFIX
from rllib_reciprocator.intrinsic.incentives import RECEIVED
from rllib_reciprocator.intrinsic.reciprocity.estimators import Transition
from rllib_reciprocator.intrinsic.reciprocity.learner import InfluenceLearner
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID
from rllib_reciprocator.intrinsic.registry import LOSS_MASK, IntrinsicReward, intrinsic_reward
from rllib_reciprocator.models import IS_FIRST
from rllib_reciprocator.players import Player
from rllib_reciprocator.utils.distributed import deviation, standardized
from rllib_reciprocator.utils.quantiles import QUANTILES, quantiles
from rllib_reciprocator.utils.ray_internals import leave_new_memory
from rllib_reciprocator.utils.settings import IntrinsicSettings

ITERATION = "iteration"
# Maximum number of rows in one forward pass of a critic. Larger batches are split, so that value computation needs no
# more memory than a training step on a minibatch.
ROWS_AT_ONCE = 2**18

Joint = dict[str, Tensor]


class BatchedLearner(InfluenceLearner, PolicyGradientLearner, PPOTorchLearner):
    """Learner that trains on rollouts (:meth:`Sample.to_batch`) instead of episodes.

    An update calls :meth:`observe`, :meth:`shape_rewards`, :meth:`values`, :meth:`advantages` and
    :meth:`transform_advantages`, then runs epochs of PPO or one policy-gradient step; algorithms override the stages
    that differ. These methods receive the joint columns of the rollout, ``[B, T, N]`` for columns per agent. Statistics
    are computed over all learners, so that the number of learners does not change the result.

    Attributes:
        scheduled: Names of settings that modules store in a buffer of the same name, as constants or as schedules over
            environment steps.
        keeps_advantage_scales: If True, stores the standard deviations of normalized advantages.
    """

    scheduled: ClassVar[tuple[str, ...]] = ("epsilon",)
    keeps_advantage_scales: ClassVar[bool] = False

    @override(PPOTorchLearner)
    def build(self) -> None:
        """Builds modules and optimizers, and the mapping from trained modules to agents and pool members."""
        config = self.config
        # Name of the loss of each trained module.
        self._losses = {
            module_id: config.loss_of(member)
            for index, player in enumerate(config.assigned_players)
            for (member, _), (module_id, _) in zip(player.pool_members, config.pool_members()[index], strict=True)
            if module_id in config.policies_to_train
        }
        super().build()
        leave_new_memory()
        self._steps = config.rollout_steps()
        self._horizon = config.horizon()
        # If True, values after the last step of a rollout are zero: episodes are complete and not bootstrapped.
        self._ends_with_streams = config.plays_whole_episodes(config.make_game()) and not config.bootstrap_at_horizon
        self._iteration = 0
        # Standard deviation of the advantages of each module in the last rollout, if they are normalized.
        self.advantage_scales: dict[str, Tensor] = {}
        self._loss_stats: dict[str, dict[str, Tensor]] | None = None
        pool_members = config.pool_members()
        # Agents of each trained module, and the index of the module among the pool members of each of these agents.
        self._agents: dict[str, list[int]] = {}
        self._numbers: dict[str, list[int]] = {}
        for index, pool in enumerate(pool_members):
            for member_index, (module_id, _) in enumerate(pool):
                if module_id in config.policies_to_train:
                    self._agents.setdefault(module_id, []).append(index)
                    self._numbers.setdefault(module_id, []).append(member_index)
        # Statistics are computed for each pool member separately. Every turn flags at most one trained pool member per
        # agent, so that one masked computation covers one pool member of all agents.
        trained = [
            [member_index for member_index, (module_id, _) in enumerate(pool) if module_id in self._losses]
            for pool in pool_members
        ]
        self._turns = [
            [
                torch.tensor(
                    [member_index in indices[turn : turn + 1] for member_index in range(len(pool))], device=self._device
                )
                for pool, indices in zip(pool_members, trained, strict=True)
            ]
            for turn in range(max(len(indices) for indices in trained))
        ]
        self._gamma = self._member_setting(lambda module, loss: module.gamma)
        self._lambda = self._member_setting(lambda module, loss: 1.0 if loss == POLICY_GRADIENT else module.lambda_)
        self._has_critic = self._member_setting(lambda module, loss: loss in WITH_CRITIC)
        self._centered = self._member_setting(lambda module, loss: loss == POLICY_GRADIENT and config.use_baseline)
        self._centers = any(loss == POLICY_GRADIENT for loss in self._losses.values()) and config.use_baseline
        self._schedules = {
            (module_id, name): Scheduler(fixed_value_or_schedule=getattr(config.get_config_for_module(module_id), name))
            for module_id in self._agents
            for name in self.scheduled
            if getattr(self.module[module_id].unwrapped(), name, None) is not None
        }
        for (policy_id, name), schedule in self._schedules.items():
            self.module[policy_id].unwrapped().get_buffer(name).fill_(schedule.get_current_value())
        self._intrinsic = config.intrinsic_by_player()
        self._pool_members = pool_members
        self._warmup = config.warmup_iterations()
        self._with_memory = {
            module_id for module_id in self._agents if self.module[module_id].unwrapped().get_initial_state()
        }
        self._clips = any(
            self.config.get_config_for_module(module_id).grad_clip is not None
            for module_id in (*self._agents, INFLUENCE_MODULE_ID)
        )

    def member_flags(self, holds: Callable[[Player], bool]) -> list[Tensor]:
        """Returns a flag per pool member of each agent, ``[members]`` bool for each agent.

        Args:
            holds: Returns the flag of a player.
        """
        return [
            torch.tensor([holds(member) for member, _ in player.pool_members], device=self._device)
            for player in self.config.assigned_players
        ]

    def _member_setting(self, of: Callable[[Any, str | None], float | bool]) -> MemberSetting:
        """Returns a setting of all pool members.

        Pool members that are not trained get the value of the first trained member of their pool, because their steps
        are masked and equal values avoid a lookup per step.

        Args:
            of: Returns the setting from the configuration of a module and the name of its loss. The name is None for
                a pool without trained members.
        """
        values = []
        for pool in self.config.pool_members():
            trained = [module_id for module_id, _ in pool if module_id in self._losses]
            settings = {
                module_id: of(self.config.get_config_for_module(module_id), self._losses[module_id])
                for module_id in trained
            }
            default = settings[trained[0]] if trained else of(self.config, None)
            values.append([settings.get(module_id, default) for module_id, _ in pool])
        return MemberSetting(values, self._device)

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Registers optimizers for trained policies and for estimators with parameters; other modules get none."""
        loss = self._losses.get(module_id)
        if loss in (POLICY_GRADIENT, ACTOR_CRITIC):
            self.register_policy_gradient(module_id, config, loss)
        elif loss is not None or (module_id == INFLUENCE_MODULE_ID and self._estimates_by_gradient):
            super().configure_optimizers_for_module(module_id, config)

    # --- stages that algorithms may override ------------------------------------------------------------------------

    def observe(self, joint: Joint) -> None:
        """Updates the modules that are not policies, e.g. the influence estimator, from the rollout.

        Args:
            joint: Joint columns of the rollout, ``[B, T, ..]``, with ``ended``.
        """
        if INFLUENCE_MODULE_ID not in self.module:
            return
        estimator, valid = self._estimator, joint.get(VALID)
        ended, rewards = joint["ended"], joint["rewards"] + joint.get(RECEIVED, 0.0)
        future = torch.zeros_like(rewards)
        if estimator.uses_future:
            future = returns_after(rewards, ended, self.config.gamma)
        columns = {name: joint[name] for name in Transition._fields if name in joint}
        steps = Transition(**{**columns, "rewards": rewards}, future_returns=future)
        flat = steps.flattened()
        if valid is not None:
            flat = Transition(*(values[valid.flatten()] for values in flat))
        stats = estimator.observe(flat, self._iteration)
        self.metrics.log_dict(stats, key=INFLUENCE_MODULE_ID, window=1)
        if self._estimates_by_gradient:
            rows = estimator.replay_rows(steps, ended)
            if valid is not None:
                rows = {name: values[valid.flatten()] for name, values in rows.items()}
            self._fit_estimator(rows, self._iteration)

    def shape_rewards(self, joint: Joint) -> Tensor:
        """Computes the rewards that agents are trained on.

        They are the sum of extrinsic rewards, incentives received from other agents, and weighted intrinsic rewards.

        Args:
            joint: Joint columns of the rollout.

        Returns:
            Rewards, ``[B, T, N]``.
        """
        shaped = joint["rewards"] + joint.get(RECEIVED, 0.0)
        for name, by_player in self._intrinsic.items():
            shaped = shaped + self._intrinsic_rewards(name, by_player, joint)
        return shaped

    def values(self, parts: dict[str, dict[str, Tensor]], joint: Joint) -> tuple[Tensor, Tensor]:
        """Computes the critics' values before and after every step; zero for agents without a critic.

        Args:
            parts: Columns by part of the batch: those of each module, of its sequences, and the joint columns.
            joint: Joint columns of the rollout.

        Returns:
            Values and next values, both ``[B, T, N]``. The next value is zero after the last step of an episode, except
            for truncated episodes if ``bootstrap_at_horizon``: then it is the value of the last observation.
        """
        before = torch.zeros_like(joint["rewards"])
        after = torch.zeros_like(before)
        for module_id, agents in self._agents.items():
            if self._losses[module_id] not in WITH_CRITIC:
                continue
            values, last, final = self._values_of(module_id, parts)
            next_values = self.next_values(values, last, final, joint)
            for slot, (agent, member_index) in enumerate(zip(agents, self._numbers[module_id], strict=True)):
                if len(self._pool_members[agent]) == 1:
                    before[..., agent], after[..., agent] = values[:, slot], next_values[:, slot]
                else:
                    mask = joint[MEMBERS][..., agent] == member_index
                    before[..., agent] = torch.where(mask, values[:, slot], before[..., agent])
                    after[..., agent] = torch.where(mask, next_values[:, slot], after[..., agent])
        return before, after

    def next_values(self, values: Tensor, last: Tensor, final: Tensor | None, joint: Joint) -> Tensor:
        """Computes the value after every step.

        Args:
            values: ``[B, S, T, ..]``, values before every step.
            last: ``[B, S, ..]``, bootstrap values after the last step of the rollout.
            final: ``[B, S, K, ..]``, values of the last observation of episodes that are truncated inside the rollout,
                for the k-th interval of ``horizon`` steps; None if there are none.
            joint: Joint columns of the rollout.

        Returns:
            Next values, ``[B, S, T, ..]``. Zero after the last step of an episode, except for truncated episodes if
            ``bootstrap_at_horizon``.
        """
        ended, truncated = joint["ended"][:, None], (joint["truncated"] & ~joint["terminated"])[:, None]
        if values.dim() > 3:
            ended, truncated = ended[..., None], truncated[..., None]
        next_values = torch.cat([values[:, :, 1:], last[:, :, None]], 2)
        end_values = torch.zeros_like(values)
        if self.config.bootstrap_at_horizon:
            if final is not None:
                end_values = final[:, :, torch.arange(self._steps, device=final.device) // self._horizon]
            # Environments are reset with the next step, so the observation after the last step is still that of the
            # episode that ended.
            end_values[:, :, -1] = last
            end_values = torch.where(truncated, end_values, 0.0)
        return torch.where(ended, end_values, next_values)

    def advantages(self, joint: Joint) -> tuple[Tensor, Tensor]:
        """Computes GAE advantages and value targets.

        Agents trained without a critic get returns, with the mean at each step subtracted if ``use_baseline``.

        Args:
            joint: Joint columns of the rollout, with ``shaped_rewards``, ``values`` and ``next_values``.

        Returns:
            Advantages and value targets, both ``[B, T, N]``.
        """
        advantages = generalized_advantages(
            joint["shaped_rewards"],
            joint["values"],
            joint["next_values"],
            joint["ended"],
            gamma=self._gamma.lookup(joint),
            lambda_=self._lambda.lookup(joint),
        )
        targets = advantages + joint["values"]
        if self._centers:
            centered = self.over_members(joint, subtract_mean, advantages)
            advantages = torch.where(self._centered.lookup(joint), centered, advantages)
        return advantages, targets

    def rollout_mask(self, joint: Joint) -> RolloutMask:
        """Returns the mask of the steps that count."""
        return RolloutMask.from_columns(joint, self._pool_members)

    def over_members(self, joint: Joint, function: Callable[[Tensor, Tensor | None], Tensor], values: Tensor) -> Tensor:
        """Applies a masked function to each trained pool member separately, over the steps in which it plays.

        Args:
            joint: Joint columns of the rollout.
            function: Maps values ``[B, T, N]`` and the mask of the steps that count, ``[B, T, N]`` or None, to values
                of the same shape.
            values: ``[B, T, N]``.

        Returns:
            ``[B, T, N]``; unchanged in steps of pool members that are not trained.
        """
        if MEMBERS not in joint:
            valid = joint.get(VALID)
            return function(values, None if valid is None else valid[..., None].expand_as(values))
        rollout_mask, result = self.rollout_mask(joint), values
        for flags in self._turns:
            mask = rollout_mask.where(flags, values)
            result = torch.where(mask, function(values, mask), result)
        return result

    def transform_advantages(self, joint: Joint, advantages: Tensor) -> Tensor:
        """Transforms the advantages that policies are trained on; value targets are not affected.

        Args:
            joint: As for :meth:`advantages`.
            advantages: ``[B, T, N]``.

        Returns:
            ``[B, T, N]``; returned unchanged by default.
        """
        return advantages

    @override(PPOTorchLearner)
    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Tensor]
    ) -> Tensor:
        """Computes the PPO loss plus the module's auxiliary losses."""
        module = self.module[module_id].unwrapped()
        stats: dict[str, Tensor] | None = None if self._loss_stats is None else {}
        loss = ppo_loss(
            module,
            batch,
            fwd_out,
            config,
            entropy_coeff=self.entropy_coeff_schedulers_per_module[module_id].get_current_value(),
            kl_coeff=self.curr_kl_coeffs_per_module[module_id],
            stats=stats,
        )
        if hasattr(module, "auxiliary_losses"):
            for name, (value, weight) in module.auxiliary_losses(batch, fwd_out).items():
                loss = loss + weight * value
                if stats is not None:
                    stats[name] = value
        if self._loss_stats is not None and stats is not None:
            self._loss_stats[module_id] = {name: value.detach() for name, value in stats.items()}
        return loss

    # --- one update -------------------------------------------------------------------------------------------------

    @override(Learner)
    def update(
        self,
        *,
        training_data: TrainingData,
        timesteps: dict[str, Any],
        num_epochs: int = 1,
        minibatch_size: int | None = None,
        shuffle_batch_per_epoch: bool = False,
        report: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Performs the update of one iteration; in warm-up iterations only estimators are trained."""
        self._check_is_built()
        self.before_gradient_based_update(timesteps=timesteps)
        training_data.solve_refs()
        self._weights_seq_no += 1
        parts = self.on_device(training_data.batch)
        joint = self.joint_columns(parts)
        batches = self.prepare(parts, joint)
        if self._iteration >= self._warmup and batches:
            self.improve(batches, num_epochs, minibatch_size, shuffle_batch_per_epoch)
            env_steps = count(joint[VALID]) if VALID in joint else joint["ended"].numel()
            self._log_steps(batches, num_epochs, env_steps)
            self.after_gradient_based_update(timesteps=timesteps)
        return self.metrics.reduce() if report else {}

    def improve(
        self, batches: dict[str, dict[str, Any]], num_epochs: int, minibatch_size: int | None, shuffle: bool
    ) -> None:
        """Trains the policies: one step of policy gradients and actor-critics, epochs of minibatches of PPO policies.

        Args:
            batches: Columns by module, as returned by :meth:`prepare`.
            num_epochs: Number of passes of PPO policies over their rows.
            minibatch_size: Environment steps per minibatch of PPO policies; None for the whole rollout.
            shuffle: If True, PPO policies go through their rows in random order.
        """
        ppo_batches = {
            module_id: columns for module_id, columns in batches.items() if self._losses[module_id] == PPO_LOSS
        }
        for module_id, columns in batches.items():
            if module_id not in ppo_batches:
                self._log_losses(module_id, self._gradient_step(module_id, columns))
        if ppo_batches:
            minibatches = list(self._minibatch_indices(ppo_batches, num_epochs, minibatch_size, shuffle))
            for index, selectors in enumerate(minibatches):
                # Only the loss terms of the last minibatch are logged, so the others do not compute them.
                self._loss_stats = {} if index == len(minibatches) - 1 else None
                _, losses, _ = self._update(
                    {module_id: select(ppo_batches[module_id]) for module_id, select in selectors.items()}
                )
            for module_id, loss in losses.items():
                self._log_losses(
                    module_id, {self.TOTAL_LOSS_KEY: loss.detach(), **(self._loss_stats or {}).get(module_id, {})}
                )
            for module_id, columns in ppo_batches.items():
                size = _counted_rows(columns) * num_epochs / len(minibatches)
                self.metrics.log_value((module_id, MODULE_TRAIN_BATCH_SIZE_MEAN), size, reduce="mean")

    def _gradient_step(self, module_id: str, columns: dict[str, Any]) -> dict[str, Tensor]:
        """Takes a policy-gradient step on all rows of a module, then its critic's steps; returns the loss terms."""
        config, batch = self.config.get_config_for_module(module_id), with_state(columns)
        losses = self.policy_step(
            module_id,
            batch,
            config,
            episodes=self.num_episodes(columns),
            entropy_coeff=self.entropy_coeff_schedulers_per_module[module_id].get_current_value(),
        )
        if self._losses[module_id] == ACTOR_CRITIC:
            losses |= self.critic_steps(module_id, batch, config)
        self.metrics.log_value((module_id, MODULE_TRAIN_BATCH_SIZE_MEAN), _counted_rows(columns), reduce="mean")
        return losses

    def num_episodes(self, columns: dict[str, Any]) -> float:
        """Returns the number of episodes that a module plays in this learner's rollout, counted once per agent.

        If a sequence of T steps is not exactly one episode, the number of steps that count is divided by T.

        Args:
            columns: Columns of the module's rows.
        """
        mask = columns.get(Columns.LOSS_MASK)
        if mask is None:
            return len(columns[Postprocessing.ADVANTAGES]) // self._steps
        sequences = mask.view(-1, self._steps)
        if self.config.completes_episodes():
            return int(sequences.any(1).sum())
        return float(sequences.sum()) / self._steps

    def _log_losses(self, module_id: str, losses: dict[str, Tensor]) -> None:
        self.metrics.log_dict({name: loss.detach() for name, loss in losses.items()}, key=module_id, window=1)

    @override(Learner)
    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Stores the iteration and seeds the order of minibatches from the run's seed and the update count."""
        super().before_gradient_based_update(timesteps=timesteps)
        self._iteration = int(timesteps[ITERATION])
        self._order = torch.Generator().manual_seed(self._seed_update())

    @override(PPOTorchLearner)
    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Updates all schedules, including those stored in buffers of modules."""
        super().after_gradient_based_update(timesteps=timesteps)
        for (module_id, name), schedule in self._schedules.items():
            value = schedule.update(timestep=timesteps[NUM_ENV_STEPS_SAMPLED_LIFETIME])
            self.module[module_id].unwrapped().get_buffer(name).fill_(value)
            self.metrics.log_value((module_id, name), value, window=1)

    def joint_columns(self, parts: dict[str, dict[str, Tensor]]) -> Joint:
        """Returns the joint columns of the rollout, ``[B, T, ..]``, with ``ended``."""
        joint = {name: column.unflatten(0, (-1, self._steps)) for name, column in parts[JOINT].items()}
        joint["ended"] = joint["terminated"] | joint["truncated"]
        if self.config.completes_episodes() and VALID not in joint:
            # A pending rollout in a checkpoint of version 0.1 has no mask.
            joint[VALID] = before_end(joint["ended"])
        return joint

    @torch.no_grad()
    def prepare(self, parts: dict[str, dict[str, Tensor]], joint: Joint) -> dict[str, dict[str, Any]]:
        """Builds the train batch of each trained module: its rows with advantages and value targets.

        Args:
            parts: Columns by part of the batch: those of each module, of its sequences, and the joint columns.
            joint: Joint columns of the rollout; shaped rewards, values and next values are added in place.

        Returns:
            Columns by module id.
        """
        with torch.enable_grad():
            self.observe(joint)
        shaped = self.shape_rewards(joint)
        before, after = self.values(parts, joint)
        joint |= {"shaped_rewards": shaped, "values": before, "next_values": after}
        advantages, targets = self.advantages(joint)
        if self.config.normalize_returns:
            targets = self.over_members(joint, _standardized_by_agent, targets)
            advantages = targets - before
        advantages = self.transform_advantages(joint, advantages)
        return {
            module_id: self._with_advantages(module_id, self.module_rows(module_id, parts, joint), advantages, targets)
            for module_id in self._agents
            if self.should_module_be_updated(module_id)
        }

    def on_device(self, batch: Any) -> dict[str, dict[str, Tensor]]:
        """Returns the columns of a batch, by part and name, as tensors on the learner's device."""
        return {
            part_id: {name: torch.as_tensor(column, device=self._device) for name, column in part.items()}
            for part_id, part in batch.policy_batches.items()
        }

    def _intrinsic_rewards(
        self, name: str, by_player: dict[tuple[int, int], IntrinsicSettings], joint: Joint
    ) -> Tensor:
        """Computes one weighted intrinsic reward, ``[B, T, N]``; zero for agents without it.

        Args:
            name: Name of the intrinsic reward.
            by_player: Its settings by agent and index of the pool member.
            joint: Joint columns of the rollout.
        """
        spec, total = intrinsic_reward(name), torch.zeros_like(joint["rewards"])
        reward, rollout_mask = spec.part("rewards"), self.rollout_mask(joint)
        assert reward is not None
        # Players with equal settings are computed together: a reward function returns the rewards of all agents.
        groups: dict[str, list[tuple[int, int]]] = {}
        for player, settings in by_player.items():
            groups.setdefault(settings.model_dump_json(), []).append(player)
        for players in groups.values():
            settings = by_player[players[0]]
            masks = {agent: rollout_mask.of_member(agent, member_index) for agent, member_index in players}
            mask = _by_agent(masks, joint["rewards"])
            columns = joint if mask is None else {**joint, LOSS_MASK: mask}
            values, weight = reward(columns, settings), settings.weight_at(self._iteration)
            for agent, member_index in players:
                module_id, agent_values = self._pool_members[agent][member_index][0], values[..., agent]
                self._log_intrinsic(spec, name, module_id, agent_values, masks[agent], weight)
                if MEMBERS in joint:
                    agent_values = agent_values * (joint[MEMBERS][..., agent] == member_index)
                total[..., agent] += weight * agent_values
        return total

    def _log_intrinsic(
        self, row: IntrinsicReward, name: str, module_id: str, values: Tensor, mask: Tensor | None, weight: float
    ) -> None:
        """Logs the weight of an intrinsic reward, and its unweighted statistics over the steps that count.

        Args:
            row: Spec of the intrinsic reward.
            name: Its name.
            module_id: Id of the module that receives it.
            values: ``[B, T]``, unweighted rewards.
            mask: ``[B, T]`` bool, the steps that count; None if all do.
            weight: Weight of the reward in this iteration.
        """
        label = row.label or name
        self.metrics.log_value((row.weight_logged_with or module_id, f"{label}_weight"), weight, window=1)
        if mask is not None:
            values = values[mask]
            if not len(values):
                return
        stats = {f"{label}_reward_mean": values.mean(), f"{label}_reward_std": values.std(correction=0)}
        self.metrics.log_dict(stats, key=module_id, window=1)
        (reward_quantiles,) = quantiles(values.reshape(-1, 1))
        self.metrics.log_value((module_id, f"{label}_reward_{QUANTILES}"), reward_quantiles, reduce="item_series")

    def _values_of(self, module_id: str, parts: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns a module's values before each step, after the last step, and at truncations.

        Args:
            module_id: Id of the module.
            parts: Columns by part of the batch.

        Returns:
            Values ``[B, S, T]``, bootstrap values ``[B, S]``, and ``[B, S, K]`` values at truncations inside the
            rollout, or None.
        """
        module = self.module[module_id].unwrapped()
        rows, streams = parts[module_id], parts[STREAMS_PREFIX + module_id]
        agents, steps = len(self._agents[module_id]), self._steps
        if Columns.VF_PREDS in rows and self._ends_with_streams:
            values = rows[Columns.VF_PREDS].view(-1, agents, steps)
            return values, torch.zeros_like(values[..., 0]), None
        if module_id in self._with_memory:
            last = {name.removeprefix(LAST): value for name, value in streams.items() if name.startswith(LAST)}
            values = self._values_with_memory(module, self._sequences(module_id, parts), last)
            values = values.view(-1, agents, steps + 1)
            return values[..., :-1], values[..., -1], None
        return self.values_without_memory(module.compute_values, rows, streams, agents)

    def values_without_memory(
        self,
        compute: Callable[..., Tensor],
        rows: dict[str, Tensor],
        streams: dict[str, Tensor],
        num_agents: int,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Computes the values of a module without recurrent state.

        Args:
            compute: Maps columns of rows to values, ``[rows, ..]``.
            rows: Columns of the module's rows.
            streams: Columns of its sequences.
            num_agents: S, the number of agents that the module plays.

        Returns:
            Values before each step ``[B, S, T, ..]``, bootstrap values after the last step ``[B, S, ..]``, and values
            at truncations inside the rollout ``[B, S, K, ..]``, or None if these were not sampled.
        """
        last = {name.removeprefix(LAST): value for name, value in streams.items() if name.startswith(LAST)}
        final = {name.removeprefix(FINAL): value for name, value in streams.items() if name.startswith(FINAL)}
        values = compute_in_chunks(compute, rows, ROWS_AT_ONCE).unflatten(0, (-1, num_agents, self._steps))
        last_values = compute_in_chunks(compute, last, ROWS_AT_ONCE).unflatten(0, (-1, num_agents))
        if not final:
            return values, last_values, None
        horizons = next(iter(final.values())).shape[1]
        flat = {name: value.flatten(0, 1) for name, value in final.items()}
        end_values = compute_in_chunks(compute, flat, ROWS_AT_ONCE).unflatten(0, (-1, num_agents, horizons))
        return values, last_values, end_values

    def _values_with_memory(self, module: Any, batch: dict[str, Any], last: dict[str, Tensor]) -> Tensor:
        """Computes a recurrent module's values before each step and after the last, ``[sequences, T + 1]``.

        The last inputs are appended to each sequence, so that one pass also returns the bootstrap value.

        Args:
            module: The module.
            batch: Columns of its sequences, see :meth:`_sequences`.
            last: Columns of its inputs after the last step, ``[sequences, ..]``.
        """
        # The appended step continues the sequence: the recurrent state is not reset before it.
        not_first = torch.zeros_like(batch[IS_FIRST][:, :1])
        extended = {
            name: torch.cat([batch[name].unflatten(0, (-1, self._steps)), value[:, None]], 1)
            for name, value in last.items()
        }
        extended[IS_FIRST] = torch.cat([batch[IS_FIRST], not_first], 1)
        extended |= memory_columns(batch)
        num_sequences = len(extended[IS_FIRST])
        size = max(1, ROWS_AT_ONCE // (self._steps + 1))
        values = []
        for start in range(0, num_sequences, size):
            chunk = {name: value[start : start + size] for name, value in extended.items()}
            values.append(module.compute_values(flat_streams(chunk)).view(-1, self._steps + 1))
        return torch.cat(values)

    def _sequences(self, module_id: str, parts: dict[str, Any]) -> dict[str, Any]:
        """Returns a recurrent module's columns: its rows, the first steps of episodes, and its initial states.

        Args:
            module_id: Id of the module.
            parts: Columns by part of the batch.
        """
        is_first = parts[JOINT][IS_FIRST].unflatten(0, (-1, self._steps))
        agents = len(self._agents[module_id])
        return {
            **parts[module_id],
            IS_FIRST: is_first.repeat_interleave(agents, 0),
            **memory_columns(parts[STREAMS_PREFIX + module_id]),
        }

    def module_rows(self, module_id: str, parts: dict[str, Any], joint: Joint) -> dict[str, Tensor]:
        """Returns the columns of a module's rows as losses take them, with a loss mask unless all rows count.

        Args:
            module_id: Id of the module.
            parts: Columns by part of the batch.
            joint: Joint columns of the rollout.
        """
        columns = self._sequences(module_id, parts) if module_id in self._with_memory else dict(parts[module_id])
        mask = self.rollout_mask(joint).of_module(self._agents[module_id], self._numbers[module_id])
        if mask is not None:
            columns[Columns.LOSS_MASK] = mask.flatten()
        return columns

    def _with_advantages(
        self, module_id: str, columns: dict[str, Tensor], advantages: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        """Returns a module's columns with the advantages and value targets of its agents.

        Args:
            module_id: Id of the module.
            columns: Columns of its rows.
            advantages: ``[B, T, N]``.
            targets: ``[B, T, N]``, value targets.
        """
        agents = self._agents[module_id]
        row_advantages, row_targets = (
            values[..., agents].transpose(1, 2).flatten() for values in (advantages, targets)
        )
        if self.config.get_config_for_module(module_id).normalize_advantages:
            mask = columns.get(Columns.LOSS_MASK)
            if self.keeps_advantage_scales:
                self.advantage_scales[module_id] = deviation(row_advantages, (0,), mask)
            row_advantages = standardized(row_advantages, mask)
        return {**columns, Postprocessing.ADVANTAGES: row_advantages, Postprocessing.VALUE_TARGETS: row_targets}

    def _minibatch_indices(
        self, batches: dict[str, dict[str, Any]], num_epochs: int, minibatch_size: int | None, shuffle: bool
    ) -> Iterator[dict[str, Any]]:
        """Yields, for every minibatch, a function per module that selects the minibatch from the module's columns.

        An epoch covers all rows that count, in minibatches whose sizes differ by at most one row. Recurrent modules are
        trained on whole sequences.

        Args:
            batches: Columns by module, as returned by :meth:`prepare`.
            num_epochs: Number of passes over the rows.
            minibatch_size: Environment steps per minibatch; a module that plays S agents has S times as many rows.
                If None, an epoch is one minibatch.
            shuffle: If True, rows are visited in random order.
        """
        module_id, columns = next(iter(batches.items()))
        env_steps = len(columns[Postprocessing.ADVANTAGES]) // len(self._agents[module_id])
        num_minibatches = max(1, round(env_steps / minibatch_size)) if minibatch_size else 1
        sequences_by_module = {
            module_id: self._streams_that_count(batches[module_id])
            for module_id in batches
            if module_id in self._with_memory
        }
        active_sequences = {
            module_id: indices for module_id, indices in sequences_by_module.items() if indices is not None
        }
        if num_minibatches == 1:
            whole_batch_selectors = {
                module_id: TakeStreams(active_sequences[module_id].to(self._device))
                if module_id in active_sequences
                else with_state
                for module_id in batches
            }
            yield from (whole_batch_selectors for _ in range(num_epochs))
            return
        for _ in range(num_epochs):
            selectors: dict[str, list[Any]] = {}
            for module_id, columns in batches.items():
                with_memory = module_id in self._with_memory
                units = len(columns[IS_FIRST]) if with_memory else len(columns[Postprocessing.ADVANTAGES])
                units = len(active_sequences[module_id]) if module_id in active_sequences else units
                order = torch.randperm(units, generator=self._order) if shuffle else torch.arange(units)
                order = active_sequences[module_id][order] if module_id in active_sequences else order
                chunks = order.to(self._device).tensor_split(min(num_minibatches, units))
                chunk_selectors = [TakeStreams(chunk) if with_memory else TakeRows(chunk) for chunk in chunks]
                # A module with fewer units than minibatches repeats them, so that every minibatch has all modules.
                selectors[module_id] = [chunk_selectors[k % len(chunk_selectors)] for k in range(num_minibatches)]
            yield from (
                {module_id: selector[k] for module_id, selector in selectors.items()} for k in range(num_minibatches)
            )

    @staticmethod
    def _streams_that_count(columns: dict[str, Any]) -> Tensor | None:
        """Returns the indices of sequences with at least one step that counts; None if all or no sequences have one."""
        mask = columns.get(Columns.LOSS_MASK)
        if mask is None:
            return None
        indices = mask.view(len(columns[IS_FIRST]), -1).any(1).nonzero()[:, 0].cpu()
        return indices if 0 < len(indices) < len(columns[IS_FIRST]) else None

    def _log_steps(self, batches: dict[str, Any], epochs: int, env_steps: int) -> None:
        """Logs the numbers of environment and module steps trained on.

        Args:
            batches: Columns by module.
            epochs: Number of passes of PPO policies over their rows.
            env_steps: Number of environment steps in the rollout that count.
        """
        metrics, total_steps = self.metrics, 0
        for module_id, columns in batches.items():
            steps = _counted_rows(columns) * (epochs if self._losses[module_id] == PPO_LOSS else 1)
            total_steps += steps
            metrics.log_value((module_id, WEIGHTS_SEQ_NO), self._weights_seq_no, window=1)
            metrics.log_value((module_id, NUM_MODULE_STEPS_TRAINED), steps, reduce="sum")
            key = (module_id, NUM_MODULE_STEPS_TRAINED_LIFETIME)
            metrics.log_value(key, steps, reduce="lifetime_sum", with_throughput=True)
        for key, lifetime, steps in (
            (NUM_MODULE_STEPS_TRAINED, NUM_MODULE_STEPS_TRAINED_LIFETIME, total_steps),
            (NUM_ENV_STEPS_TRAINED, NUM_ENV_STEPS_TRAINED_LIFETIME, epochs * env_steps),
        ):
            metrics.log_value((ALL_MODULES, key), steps, reduce="sum", with_throughput=True)
            metrics.log_value((ALL_MODULES, lifetime), steps, reduce="lifetime_sum", with_throughput=True)

    @override(TorchLearner)
    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> Any:
        """Performs one gradient step."""
        out = self.module.forward_train(batch)
        losses = self.compute_losses(fwd_out=out, batch=batch)
        gradients = self.compute_gradients(losses)
        if self._clips or self.config.log_gradients:
            gradients = self.postprocess_gradients(gradients)
        self.apply_gradients(gradients)
        return out, losses, {}

    @override(TorchLearner)
    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        """Steps every optimizer; gradients that are not finite are set to zero, as in RLlib.

        RLlib checks the parameters one by one, which synchronizes with the device for each. Here one check covers all
        gradients, and on a GPU it does not synchronize.
        """
        if self._grad_scalers is not None or self._lr_scheduler_classes is not None:
            super().apply_gradients(gradients_dict)
            return
        finite = torch.stack(torch._foreach_norm(list(gradients_dict.values()))).isfinite().all()
        if finite.is_cuda:
            gradients_dict = {name: torch.where(finite, gradient, 0.0) for name, gradient in gradients_dict.items()}
        elif not bool(finite):
            super().apply_gradients(gradients_dict)
            return
        for name, gradient in gradients_dict.items():
            self._params[name].grad = gradient
        for module_id, names in self._module_optimizers.items():
            for name in names:
                self.get_optimizer(module_id, name).step()


def _counted_rows(columns: dict[str, Any]) -> int:
    """Returns the number of a module's rows that count."""
    mask = columns.get(Columns.LOSS_MASK)
    return len(columns[Postprocessing.ADVANTAGES]) if mask is None else count(mask)


def _standardized_by_agent(values: Tensor, mask: Tensor | None) -> Tensor:
    """Standardizes values ``[B, T, N]`` per agent, over the steps where the mask ``[B, T, N]`` is true."""
    masks = [None] * values.shape[-1] if mask is None else mask.unbind(-1)
    columns = zip(values.unbind(-1), masks, strict=True)
    return torch.stack([standardized(column, agent_mask) for column, agent_mask in columns], -1)


def _by_agent(masks: dict[int, Tensor | None], like: Tensor) -> Tensor | None:
    """Stacks the masks of some agents into ``[B, T, N]``, false for all other agents.

    Args:
        masks: Mask ``[B, T]`` by agent; None if all its steps count.
        like: Tensor of shape ``[B, T, N]``.

    Returns:
        ``[B, T, N]`` bool; None if all masks are None.
    """
    if all(mask is None for mask in masks.values()):
        return None
    result = torch.zeros_like(like, dtype=torch.bool)
    for agent, mask in masks.items():
        result[..., agent] = True if mask is None else mask
    return result
