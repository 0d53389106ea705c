"""The learner of streams: estimators, rewards, advantages and epochs, each a method that an algorithm may change."""

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
# Values of more rows than these are computed in parts, so that networks need no more memory than in a minibatch.
ROWS_AT_ONCE = 2**18

Joint = dict[str, Tensor]


class BatchedLearner(InfluenceLearner, PolicyGradientLearner, PPOTorchLearner):
    """Learns from streams (:meth:`Sample.to_batch`) instead of episodes.

    An update is :meth:`observe`, :meth:`shape_rewards`, :meth:`values`, :meth:`advantages`,
    :meth:`transform_advantages`, and then epochs of PPO, or a step of policy gradients; an algorithm changes what it
    does otherwise. These methods see the joint steps of all agents, ``[B, T, N]`` by column. Statistics are taken over
    all learners, so that their number does not change what is learned.

    Attributes:
        scheduled: Settings that modules keep in a buffer of that name, as numbers or schedules by joint steps.
        keeps_advantage_scales: If True, keeps the standard deviations of advantages that are standardised.
    """

    scheduled: ClassVar[tuple[str, ...]] = ("epsilon",)
    keeps_advantage_scales: ClassVar[bool] = False

    @override(PPOTorchLearner)
    def build(self) -> None:
        """Builds modules and optimizers, and notes who plays what."""
        config = self.config
        # By which loss each learning module learns.
        self._losses = {
            module_id: config.loss_of(player)
            for index, of_agent in enumerate(config.assigned_players)
            for (player, _), (module_id, _) in zip(of_agent.pool_members, config.pool_members()[index], strict=True)
            if module_id in config.policies_to_train
        }
        super().build()
        leave_new_memory()
        self._steps = config.rollout_steps()
        self._horizon = config.horizon()
        # Whether no value after the last step of a stream counts.
        self._ends_with_streams = config.plays_whole_episodes(config.make_game()) and not config.bootstrap_at_horizon
        self._iteration = 0
        # By module the standard deviation of its advantages in the last rollout, where they are standardised.
        self.advantage_scales: dict[str, Tensor] = {}
        self._told: dict[str, dict[str, Tensor]] | None = None
        pool_members = config.pool_members()
        # Of every learning module its agents, and which of their pool members it is.
        self._agents: dict[str, list[int]] = {}
        self._numbers: dict[str, list[int]] = {}
        for index, each in enumerate(pool_members):
            for number, (module_id, _) in enumerate(each):
                if module_id in config.policies_to_train:
                    self._agents.setdefault(module_id, []).append(index)
                    self._numbers.setdefault(module_id, []).append(number)
        # Turns in each of which at most one trained pool member of every agent is flagged, for statistics of each.
        trained = [
            [number for number, (module_id, _) in enumerate(pool) if module_id in self._losses] for pool in pool_members
        ]
        self._turns = [
            [
                torch.tensor([number in numbers[turn : turn + 1] for number in range(len(pool))], device=self._device)
                for pool, numbers in zip(pool_members, trained, strict=True)
            ]
            for turn in range(max(len(numbers) for numbers in trained))
        ]
        self._gamma = self._member_setting(lambda module, loss: module.gamma)
        self._lambda = self._member_setting(lambda module, loss: 1.0 if loss == POLICY_GRADIENT else module.lambda_)
        self._has_critic = self._member_setting(lambda module, loss: loss in WITH_CRITIC)
        self._centered = self._member_setting(lambda module, loss: loss == POLICY_GRADIENT and config.use_baseline)
        self._centers = any(loss == POLICY_GRADIENT for loss in self._losses.values()) and config.use_baseline
        self._schedules = {
            (key, name): Scheduler(fixed_value_or_schedule=getattr(config.get_config_for_module(key), name))
            for key in self._agents
            for name in self.scheduled
            if getattr(self.module[key].unwrapped(), name, None) is not None
        }
        for (key, name), schedule in self._schedules.items():
            self.module[key].unwrapped().get_buffer(name).fill_(schedule.get_current_value())
        self._intrinsic = config.intrinsic_by_player()
        self._pool_members = pool_members
        self._warmup = config.warmup_iterations()
        self._with_memory = {key for key in self._agents if self.module[key].unwrapped().get_initial_state()}
        self._clips = any(
            self.config.get_config_for_module(key).grad_clip is not None for key in (*self._agents, INFLUENCE_MODULE_ID)
        )

    def member_flags(self, holds: Callable[[Player], bool]) -> list[Tensor]:
        """Returns for each agent whether its pool members have a property, ``[members]`` bool.

        Args:
            holds: Returns whether a player has it.
        """
        return [
            torch.tensor([holds(member) for member, _ in player.pool_members], device=self._device)
            for player in self.config.assigned_players
        ]

    def _member_setting(self, of: Callable[[Any, str | None], float | bool]) -> MemberSetting:
        """Returns a setting of all pool members; members that are not trained have that of the first one that is.

        Args:
            of: Returns it from the configuration of a module and the name of its loss, None if none is trained.
        """
        values = []
        for pool in self.config.pool_members():
            trained = [module_id for module_id, _ in pool if module_id in self._losses]
            settings = {key: of(self.config.get_config_for_module(key), self._losses[key]) for key in trained}
            default = settings[trained[0]] if trained else of(self.config, None)
            values.append([settings.get(module_id, default) for module_id, _ in pool])
        return MemberSetting(values, self._device)

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Optimizers for every player that learns and for a learned estimator; nothing else changes by gradient."""
        loss = self._losses.get(module_id)
        if loss in (POLICY_GRADIENT, ACTOR_CRITIC):
            self.register_policy_gradient(module_id, config, loss)
        elif loss is not None or (module_id == INFLUENCE_MODULE_ID and self._estimates_by_gradient):
            super().configure_optimizers_for_module(module_id, config)

    # --- what an algorithm may change -------------------------------------------------------------------------------

    def observe(self, joint: Joint) -> None:
        """Lets what learns beside the policies learn from the sampled steps.

        Args:
            joint: Columns of joint steps, ``[B, T, ..]``, as sampled, and ``ended``.
        """
        if INFLUENCE_MODULE_ID not in self.module:
            return
        estimator, valid = self._estimator, joint.get(VALID)
        ended, rewards = joint["ended"], joint["rewards"] + joint.get(RECEIVED, 0.0)
        future = torch.zeros_like(rewards)
        if estimator.uses_future:
            future = returns_after(rewards, ended, self.config.gamma)
        seen = {name: joint[name] for name in Transition._fields if name in joint}
        steps = Transition(**{**seen, "rewards": rewards}, future_returns=future)
        flat = steps.flattened()
        if valid is not None:
            flat = Transition(*(values[valid.flatten()] for values in flat))
        told = estimator.observe(flat, self._iteration)
        self.metrics.log_dict(told, key=INFLUENCE_MODULE_ID, window=1)
        if self._estimates_by_gradient:
            rows = estimator.replay_rows(steps, ended)
            if valid is not None:
                rows = {name: values[valid.flatten()] for name, values in rows.items()}
            self._fit_estimator(rows, self._iteration)

    def shape_rewards(self, joint: Joint) -> Tensor:
        """What agents learn to get more of: extrinsic rewards, what others give them, and their intrinsic rewards.

        Args:
            joint: Columns of joint steps.

        Returns:
            ``[B, T, N]``.
        """
        shaped = joint["rewards"] + joint.get(RECEIVED, 0.0)
        for name, by_player in self._intrinsic.items():
            shaped = shaped + self._intrinsic_rewards(name, by_player, joint)
        return shaped

    def values(self, parts: dict[str, dict[str, Tensor]], joint: Joint) -> tuple[Tensor, Tensor]:
        """What critics expect before and after every step, zero for agents without one.

        Args:
            parts: The columns of each module, of its streams, and of the joint steps.
            joint: Columns of joint steps.

        Returns:
            Each ``[B, T, N]``. After the last step of an episode it is zero, unless ``bootstrap_at_horizon`` and the
            episode was cut off: then it is the value of what was seen last.
        """
        before = torch.zeros_like(joint["rewards"])
        after = torch.zeros_like(before)
        for module_id, agents in self._agents.items():
            if self._losses[module_id] not in WITH_CRITIC:
                continue
            values, last, final = self._values_of(module_id, parts)
            following = self.next_values(values, last, final, joint)
            for slot, (agent, number) in enumerate(zip(agents, self._numbers[module_id], strict=True)):
                if len(self._pool_members[agent]) == 1:
                    before[..., agent], after[..., agent] = values[:, slot], following[:, slot]
                else:
                    plays = joint[MEMBERS][..., agent] == number
                    before[..., agent] = torch.where(plays, values[:, slot], before[..., agent])
                    after[..., agent] = torch.where(plays, following[:, slot], after[..., agent])
        return before, after

    def next_values(self, values: Tensor, last: Tensor, final: Tensor | None, joint: Joint) -> Tensor:
        """Returns the value after every step, ``[B, S, T, ..]``.

        Args:
            values: ``[B, S, T, ..]``, before every step.
            last: ``[B, S, ..]``, after the last step of the rollout.
            final: ``[B, S, K, ..]``, at the k-th horizon of the rollout, where episodes are cut off inside it.
            joint: Columns of joint steps.

        Returns:
            After the last step of an episode zero, unless ``bootstrap_at_horizon`` and the episode was cut off.
        """
        ended, cut_off = joint["ended"][:, None], (joint["truncated"] & ~joint["terminated"])[:, None]
        if values.dim() > 3:
            ended, cut_off = ended[..., None], cut_off[..., None]
        following = torch.cat([values[:, :, 1:], last[:, :, None]], 2)
        at_end = torch.zeros_like(values)
        if self.config.bootstrap_at_horizon:
            if final is not None:
                at_end = final[:, :, torch.arange(self._steps, device=final.device) // self._horizon]
            # What the last step leads to is seen after the stream, since games start anew with the next one.
            at_end[:, :, -1] = last
            at_end = torch.where(cut_off, at_end, 0.0)
        return torch.where(ended, at_end, following)

    def advantages(self, joint: Joint) -> tuple[Tensor, Tensor]:
        """Advantages and value targets, of all agents; for who has no critic, returns less their mean at each step.

        Args:
            joint: Columns of joint steps, ``shaped_rewards``, ``values`` and ``next_values`` among them.

        Returns:
            Each ``[B, T, N]``.
        """
        estimated = generalized_advantages(
            joint["shaped_rewards"],
            joint["values"],
            joint["next_values"],
            joint["ended"],
            gamma=self._gamma.lookup(joint),
            lambda_=self._lambda.lookup(joint),
        )
        targets = estimated + joint["values"]
        if self._centers:
            centered = self.over_members(joint, subtract_mean, estimated)
            estimated = torch.where(self._centered.lookup(joint), centered, estimated)
        return estimated, targets

    def rollout_mask(self, joint: Joint) -> RolloutMask:
        """Returns the mask of the steps that count."""
        return RolloutMask.from_columns(joint, self._pool_members)

    def over_members(self, joint: Joint, function: Callable[[Tensor, Tensor | None], Tensor], values: Tensor) -> Tensor:
        """Returns a statistic of the trained players: of the pool members of an agent, each over its own steps.

        Args:
            joint: Columns of joint steps.
            function: Returns values of the same shape from values ``[B, T, N]`` and the mask of the steps that count,
                ``[B, T, N]`` or None.
            values: ``[B, T, N]``.

        Returns:
            ``[B, T, N]``.
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
        """What policies are trained on instead of their own advantages; value targets stay.

        Args:
            joint: As for :meth:`advantages`.
            advantages: ``[B, T, N]``.

        Returns:
            ``[B, T, N]``; the same, unless an algorithm says otherwise.
        """
        return advantages

    @override(PPOTorchLearner)
    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Tensor]
    ) -> Tensor:
        """PPO's loss, and those that the module has of its own."""
        module = self.module[module_id].unwrapped()
        told: dict[str, Tensor] | None = None if self._told is None else {}
        loss = ppo_loss(
            module,
            batch,
            fwd_out,
            config,
            entropy_coeff=self.entropy_coeff_schedulers_per_module[module_id].get_current_value(),
            kl_coeff=self.curr_kl_coeffs_per_module[module_id],
            told=told,
        )
        if hasattr(module, "auxiliary_losses"):
            for name, (value, weight) in module.auxiliary_losses(batch, fwd_out).items():
                loss = loss + weight * value
                if told is not None:
                    told[name] = value
        if self._told is not None and told is not None:
            self._told[module_id] = {name: value.detach() for name, value in told.items()}
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
        """One iteration; while estimators warm up, they alone learn."""
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
        """Changes the players: a step of who learns by policy gradients, epochs of all others.

        Args:
            batches: What :meth:`prepare` made of samples.
            num_epochs: How often others go through their rows.
            minibatch_size: Joint steps of a gradient step of theirs.
            shuffle: Whether they go through in random order.
        """
        others = {key: columns for key, columns in batches.items() if self._losses[key] == PPO_LOSS}
        for key, columns in batches.items():
            if key not in others:
                self._log_losses(key, self._gradient_step(key, columns))
        if others:
            minibatches = list(self._minibatch_indices(others, num_epochs, minibatch_size, shuffle))
            for number, of_modules in enumerate(minibatches):
                self._told = {} if number == len(minibatches) - 1 else None
                _, losses, _ = self._update({key: take(others[key]) for key, take in of_modules.items()})
            for key, loss in losses.items():
                self._log_losses(key, {self.TOTAL_LOSS_KEY: loss.detach(), **(self._told or {}).get(key, {})})
            for key, columns in others.items():
                size = _counted_rows(columns) * num_epochs / len(minibatches)
                self.metrics.log_value((key, MODULE_TRAIN_BATCH_SIZE_MEAN), size, reduce="mean")

    def _gradient_step(self, module_id: str, columns: dict[str, Any]) -> dict[str, Tensor]:
        """A policy-gradient step on all rows of a module, then those of its critic; the parts of its losses."""
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
        """Returns the number of episodes that a module plays in this learner's rollout, one for each of its agents.

        Where a stream is not one episode it counts as one if the module plays in all of its steps.

        Args:
            columns: The module's rows.
        """
        mask = columns.get(Columns.LOSS_MASK)
        if mask is None:
            return len(columns[Postprocessing.ADVANTAGES]) // self._steps
        streams = mask.view(-1, self._steps)
        if self.config.completes_episodes():
            return int(streams.any(1).sum())
        return float(streams.sum()) / self._steps

    def _log_losses(self, module_id: str, losses: dict[str, Tensor]) -> None:
        self.metrics.log_dict({name: each.detach() for name, each in losses.items()}, key=module_id, window=1)

    @override(Learner)
    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Notes the iteration, and makes the order of minibatches follow from the seed and the update's number."""
        super().before_gradient_based_update(timesteps=timesteps)
        self._iteration = int(timesteps[ITERATION])
        self._order = torch.Generator().manual_seed(self._seed_update())

    @override(PPOTorchLearner)
    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Moves schedules on, those of modules' buffers too."""
        super().after_gradient_based_update(timesteps=timesteps)
        for (module_id, name), schedule in self._schedules.items():
            value = schedule.update(timestep=timesteps[NUM_ENV_STEPS_SAMPLED_LIFETIME])
            self.module[module_id].unwrapped().get_buffer(name).fill_(value)
            self.metrics.log_value((module_id, name), value, window=1)

    def joint_columns(self, parts: dict[str, dict[str, Tensor]]) -> Joint:
        """Returns the columns of joint steps, ``[B, T, ..]``, as sampled, and ``ended``."""
        joint = {name: column.unflatten(0, (-1, self._steps)) for name, column in parts[JOINT].items()}
        joint["ended"] = joint["terminated"] | joint["truncated"]
        if self.config.completes_episodes() and VALID not in joint:
            # A pending sample from a checkpoint of version 0.1 has no mask.
            joint[VALID] = before_end(joint["ended"])
        return joint

    @torch.no_grad()
    def prepare(self, parts: dict[str, dict[str, Tensor]], joint: Joint) -> dict[str, dict[str, Any]]:
        """Turns samples into what losses take: the rows of each learning module, with advantages and value targets.

        Args:
            parts: The columns of each module, of its streams, and of the joint steps.
            joint: Columns of joint steps; more are added.
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
        """The columns of a batch, by part and name, where this learner is."""
        return {
            key: {name: torch.as_tensor(column, device=self._device) for name, column in part.items()}
            for key, part in batch.policy_batches.items()
        }

    def _intrinsic_rewards(
        self, name: str, by_player: dict[tuple[int, int], IntrinsicSettings], joint: Joint
    ) -> Tensor:
        """The weighted rewards of one kind, ``[B, T, N]``; zero for who is not moved by it."""
        row, added = intrinsic_reward(name), torch.zeros_like(joint["rewards"])
        reward, rollout_mask = row.part("rewards"), self.rollout_mask(joint)
        assert reward is not None
        alike: dict[str, list[tuple[int, int]]] = {}
        for player, settings in by_player.items():
            alike.setdefault(settings.model_dump_json(), []).append(player)
        for players in alike.values():
            settings = by_player[players[0]]
            masks = {agent: rollout_mask.of_member(agent, number) for agent, number in players}
            mask = _by_agent(masks, joint["rewards"])
            columns = joint if mask is None else {**joint, LOSS_MASK: mask}
            values, weight = reward(columns, settings), settings.weight_at(self._iteration)
            for agent, number in players:
                module_id, of_agent = self._pool_members[agent][number][0], values[..., agent]
                self._log_intrinsic(row, name, module_id, of_agent, masks[agent], weight)
                if MEMBERS in joint:
                    of_agent = of_agent * (joint[MEMBERS][..., agent] == number)
                added[..., agent] += weight * of_agent
        return added

    def _log_intrinsic(
        self, row: IntrinsicReward, name: str, module_id: str, values: Tensor, mask: Tensor | None, weight: float
    ) -> None:
        """Logs an intrinsic reward before it is weighted, over the steps that count, and the weight.

        Args:
            row: The intrinsic reward.
            name: Its name.
            module_id: The module that gets it.
            values: ``[B, T]``.
            mask: ``[B, T]`` bool, the steps that count; None if all do.
            weight: The weight.
        """
        label = row.label or name
        self.metrics.log_value((row.weight_logged_with or module_id, f"{label}_weight"), weight, window=1)
        if mask is not None:
            values = values[mask]
            if not len(values):
                return
        spread = {f"{label}_reward_mean": values.mean(), f"{label}_reward_std": values.std(correction=0)}
        self.metrics.log_dict(spread, key=module_id, window=1)
        (distributed,) = quantiles(values.reshape(-1, 1))
        self.metrics.log_value((module_id, f"{label}_reward_{QUANTILES}"), distributed, reduce="item_series")

    def _values_of(self, module_id: str, parts: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor | None]:
        """A module's values: before each step ``[B, S, T]``, after the last ``[B, S]``, at cut-offs ``[B, S, K]``."""
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
        """Returns values before each step, ``[B, S, T, ..]``, after the last, ``[B, S, ..]``, and at horizons.

        Args:
            compute: From columns of rows to values, ``[rows, ..]``.
            rows: The columns of a module's rows.
            streams: The columns of its streams.
            num_agents: S, how many agents it plays.
        """
        last = {name.removeprefix(LAST): value for name, value in streams.items() if name.startswith(LAST)}
        final = {name.removeprefix(FINAL): value for name, value in streams.items() if name.startswith(FINAL)}
        values = compute_in_chunks(compute, rows, ROWS_AT_ONCE).unflatten(0, (-1, num_agents, self._steps))
        at_last = compute_in_chunks(compute, last, ROWS_AT_ONCE).unflatten(0, (-1, num_agents))
        if not final:
            return values, at_last, None
        horizons = next(iter(final.values())).shape[1]
        flat = {name: value.flatten(0, 1) for name, value in final.items()}
        at_ends = compute_in_chunks(compute, flat, ROWS_AT_ONCE).unflatten(0, (-1, num_agents, horizons))
        return values, at_last, at_ends

    def _values_with_memory(self, module: Any, batch: dict[str, Any], last: dict[str, Tensor]) -> Tensor:
        """Before each step and after the last, ``[streams, T + 1]``: what is seen last continues each stream."""
        going_on = torch.zeros_like(batch[IS_FIRST][:, :1])
        longer = {
            name: torch.cat([batch[name].unflatten(0, (-1, self._steps)), value[:, None]], 1)
            for name, value in last.items()
        }
        longer[IS_FIRST] = torch.cat([batch[IS_FIRST], going_on], 1)
        longer |= memory_columns(batch)
        streams = len(longer[IS_FIRST])
        size = max(1, ROWS_AT_ONCE // (self._steps + 1))
        values = []
        for start in range(0, streams, size):
            part = {name: value[start : start + size] for name, value in longer.items()}
            values.append(module.compute_values(flat_streams(part)).view(-1, self._steps + 1))
        return torch.cat(values)

    def _sequences(self, module_id: str, parts: dict[str, Any]) -> dict[str, Any]:
        """The columns of a module with memory: its rows, where episodes begin, and its memory before each stream."""
        is_first = parts[JOINT][IS_FIRST].unflatten(0, (-1, self._steps))
        agents = len(self._agents[module_id])
        return {
            **parts[module_id],
            IS_FIRST: is_first.repeat_interleave(agents, 0),
            **memory_columns(parts[STREAMS_PREFIX + module_id]),
        }

    def module_rows(self, module_id: str, parts: dict[str, Any], joint: Joint) -> dict[str, Tensor]:
        """Returns a module's rows as losses take them, with the mask of those that count if not all do.

        Args:
            module_id: The module.
            parts: The columns of each module, and of its streams.
            joint: Columns of joint steps.
        """
        columns = self._sequences(module_id, parts) if module_id in self._with_memory else dict(parts[module_id])
        mask = self.rollout_mask(joint).of_module(self._agents[module_id], self._numbers[module_id])
        if mask is not None:
            columns[Columns.LOSS_MASK] = mask.flatten()
        return columns

    def _with_advantages(
        self, module_id: str, columns: dict[str, Tensor], advantages: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        """A module's columns with its agents' advantages and value targets."""
        agents = self._agents[module_id]
        own, goals = (values[..., agents].transpose(1, 2).flatten() for values in (advantages, targets))
        if self.config.get_config_for_module(module_id).normalize_advantages:
            mask = columns.get(Columns.LOSS_MASK)
            if self.keeps_advantage_scales:
                self.advantage_scales[module_id] = deviation(own, (0,), mask)
            own = standardized(own, mask)
        return {**columns, Postprocessing.ADVANTAGES: own, Postprocessing.VALUE_TARGETS: goals}

    def _minibatch_indices(
        self, batches: dict[str, dict[str, Any]], num_epochs: int, minibatch_size: int | None, shuffle: bool
    ) -> Iterator[dict[str, Any]]:
        """For every minibatch, by module what takes it from the module's columns.

        Each epoch goes through all rows once, in parts that differ by one row at most; a module with a memory goes
        through whole streams. ``minibatch_size`` is that of joint steps; modules that play several agents have as many
        times the rows.
        """
        key, columns = next(iter(batches.items()))
        joint_steps = len(columns[Postprocessing.ADVANTAGES]) // len(self._agents[key])
        count = max(1, round(joint_steps / minibatch_size)) if minibatch_size else 1
        counted = {key: self._streams_that_count(batches[key]) for key in batches if key in self._with_memory}
        kept = {key: streams for key, streams in counted.items() if streams is not None}
        if count == 1:
            takes_all = {key: TakeStreams(kept[key].to(self._device)) if key in kept else with_state for key in batches}
            yield from (takes_all for _ in range(num_epochs))
            return
        for _ in range(num_epochs):
            takes: dict[str, list[Any]] = {}
            for key, columns in batches.items():
                with_memory = key in self._with_memory
                units = len(columns[IS_FIRST]) if with_memory else len(columns[Postprocessing.ADVANTAGES])
                units = len(kept[key]) if key in kept else units
                order = torch.randperm(units, generator=self._order) if shuffle else torch.arange(units)
                order = kept[key][order] if key in kept else order
                chunks = order.to(self._device).tensor_split(min(count, units))
                taken = [TakeStreams(chunk) if with_memory else TakeRows(chunk) for chunk in chunks]
                takes[key] = [taken[k % len(taken)] for k in range(count)]
            yield from ({key: each[k] for key, each in takes.items()} for k in range(count))

    @staticmethod
    def _streams_that_count(columns: dict[str, Any]) -> Tensor | None:
        """The streams of a module's columns in which a step counts; None if these are all, or none is."""
        mask = columns.get(Columns.LOSS_MASK)
        if mask is None:
            return None
        counted = mask.view(len(columns[IS_FIRST]), -1).any(1).nonzero()[:, 0].cpu()
        return counted if 0 < len(counted) < len(columns[IS_FIRST]) else None

    def _log_steps(self, batches: dict[str, Any], epochs: int, env_steps: int) -> None:
        """Logs how much was trained on."""
        metrics, steps_of_all = self.metrics, 0
        for module_id, columns in batches.items():
            steps = _counted_rows(columns) * (epochs if self._losses[module_id] == PPO_LOSS else 1)
            steps_of_all += steps
            metrics.log_value((module_id, WEIGHTS_SEQ_NO), self._weights_seq_no, window=1)
            metrics.log_value((module_id, NUM_MODULE_STEPS_TRAINED), steps, reduce="sum")
            key = (module_id, NUM_MODULE_STEPS_TRAINED_LIFETIME)
            metrics.log_value(key, steps, reduce="lifetime_sum", with_throughput=True)
        for key, lifetime, steps in (
            (NUM_MODULE_STEPS_TRAINED, NUM_MODULE_STEPS_TRAINED_LIFETIME, steps_of_all),
            (NUM_ENV_STEPS_TRAINED, NUM_ENV_STEPS_TRAINED_LIFETIME, epochs * env_steps),
        ):
            metrics.log_value((ALL_MODULES, key), steps, reduce="sum", with_throughput=True)
            metrics.log_value((ALL_MODULES, lifetime), steps, reduce="lifetime_sum", with_throughput=True)

    @override(TorchLearner)
    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> Any:
        """One gradient step."""
        out = self.module.forward_train(batch)
        losses = self.compute_losses(fwd_out=out, batch=batch)
        gradients = self.compute_gradients(losses)
        if self._clips or self.config.log_gradients:
            gradients = self.postprocess_gradients(gradients)
        self.apply_gradients(gradients)
        return out, losses, {}

    @override(TorchLearner)
    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        """Steps every optimizer; gradients that are not finite count as zero, as in RLlib.

        RLlib's own way looks at each gradient and waits for the answer; here a CPU looks at all in one go, and a GPU is
        not waited for.
        """
        if self._grad_scalers is not None or self._lr_scheduler_classes is not None:
            super().apply_gradients(gradients_dict)
            return
        finite = torch.stack(torch._foreach_norm(list(gradients_dict.values()))).isfinite().all()
        if finite.is_cuda:
            gradients_dict = {name: torch.where(finite, each, 0.0) for name, each in gradients_dict.items()}
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
    """Returns values ``[B, T, N]`` standardised for each agent over the steps where a mask ``[B, T, N]`` is true."""
    masks = [None] * values.shape[-1] if mask is None else mask.unbind(-1)
    columns = zip(values.unbind(-1), masks, strict=True)
    return torch.stack([standardized(column, mask_of_agent) for column, mask_of_agent in columns], -1)


def _by_agent(masks: dict[int, Tensor | None], like: Tensor) -> Tensor | None:
    """Returns masks ``[B, T]`` of some agents as one, ``[B, T, N]``, false for the others; None if no step is masked.

    Args:
        masks: The masks, by agent.
        like: ``[B, T, N]``, for the shape.
    """
    if all(mask is None for mask in masks.values()):
        return None
    result = torch.zeros_like(like, dtype=torch.bool)
    for agent, mask in masks.items():
        result[..., agent] = True if mask is None else mask
    return result
