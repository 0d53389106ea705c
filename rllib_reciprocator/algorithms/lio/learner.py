"""Learner of LIO: trains policies on incentives, and incentive functions through the policies' gradient steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor, nn

from rllib_reciprocator.algorithms.lio.credit import (
    directional,
    gradients,
    orthogonal,
    through_standardization,
    worth_of_incentives,
)
from rllib_reciprocator.engine.advantages import generalized_advantages, subtract_mean
from rllib_reciprocator.engine.learner import BatchedLearner, Joint
from rllib_reciprocator.engine.losses import PPO_LOSS
from rllib_reciprocator.engine.masks import MEMBERS, VALID
from rllib_reciprocator.engine.minibatches import with_state
from rllib_reciprocator.engine.policy_gradients import averaged_over_learners, critic_parameters
from rllib_reciprocator.engine.sample import LAST, STREAMS_PREFIX
from rllib_reciprocator.intrinsic.incentives import INCENTIVES, NOISE, RECEIVED, IncentiveSettings, received
from rllib_reciprocator.intrinsic.incentives.incentive_functions import IncentiveFunctions
from rllib_reciprocator.intrinsic.incentives.opponent_models import OpponentModels
from rllib_reciprocator.intrinsic.incentives.specs import INCENTIVES_MODULE_ID, OPPONENTS_MODULE_ID
from rllib_reciprocator.models import GIVEN
from rllib_reciprocator.utils.distributed import sum_over_learners

POLICIES_PHASE, INCENTIVES_PHASE = "policies", "incentives"
REWARD, COST, CRITIC, OPPONENTS = "reward", "cost", "critic", "opponents"


@dataclass
class _Lesson:
    """Rollout of the last policy update, and the policies before it.

    Attributes:
        seen: ``[B * T, N, *obs_shape]``, observations of trained agents; zero for the others.
        actions: ``[B * T, N]`` int64.
        given: ``[B * T, N, N - 1]``, sum of the incentives that each agent gave to each co-player earlier in the
            episode; None if incentive functions do not observe it.
        joint: Columns of environment steps, ``[B, T, ..]``.
        columns: Training rows of each trained module.
        before: By module and name, the parameters and epsilon before the update.
    """

    seen: Tensor
    actions: Tensor
    given: Tensor | None
    joint: Joint
    columns: dict[str, dict[str, Any]]
    before: dict[str, dict[str, Tensor]]


class _LogProbabilities(nn.Module):
    """Log-probabilities of the actions in a batch, as a function of a policy's parameters."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Computes the log-probabilities, ``[rows]``."""
        out = self.policy.forward_train(batch)
        distribution = self.policy.get_train_action_dist_cls().from_logits(out[Columns.ACTION_DIST_INPUTS])
        return distribution.logp(batch[Columns.ACTIONS])


class LIOLearner(BatchedLearner):
    """Learner with two phases: trains policies on one rollout, then incentive functions on the rollout after it."""

    keeps_advantage_scales = True

    @override(BatchedLearner)
    def build(self) -> None:
        """Builds modules and optimizers, and flags the pool members that give and receive incentives."""
        self._givers = self.config.givers()
        settings = self.config.intrinsic_of_all(INCENTIVES, self.config.make_game())
        assert isinstance(settings, IncentiveSettings)
        self._settings = settings
        # For each agent, flags of the pool members that give incentives, and of those that receive them.
        self._gives = self.member_flags(lambda member: member.learns and INCENTIVES in member.intrinsic)
        self._receives = self.member_flags(lambda member: member.learns)
        super().build()
        self._cost_coeff = Scheduler(fixed_value_or_schedule=settings.cost_coeff)
        self._lesson: _Lesson | None = None
        # If incentives are sampled: inputs of incentive functions, columns of environment steps, givers' advantages.
        self._drawn: tuple[tuple[Tensor, Tensor, Tensor | None], Joint, Tensor] | None = None
        if not settings.charge_giver:
            self._intrinsic.pop(INCENTIVES, None)
        # Parameters of policies, without their critics, by module and name.
        self._trained: dict[str, dict[str, Tensor]] = {}
        for module_id in self._agents:
            module = self.module[module_id].unwrapped()
            critic = set(critic_parameters(module))
            self._trained[module_id] = {name: param for name, param in module.named_parameters() if param not in critic}

    @property
    def _functions(self) -> IncentiveFunctions:
        return self.module[INCENTIVES_MODULE_ID].unwrapped()

    @property
    def _models(self) -> OpponentModels:
        return self.module[OPPONENTS_MODULE_ID].unwrapped()

    @override(BatchedLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Registers the optimizers of policies and of incentive functions: for reward, cost, critics and models."""
        if module_id not in (INCENTIVES_MODULE_ID, OPPONENTS_MODULE_ID):
            super().configure_optimizers_for_module(module_id, config)
        elif self._givers and module_id == INCENTIVES_MODULE_ID:
            settings, functions = self._settings, self._functions
            rates: dict[str, tuple[nn.Module | None, Any]] = {
                REWARD: (functions.functions, settings.lr),
                COST: (functions.functions, settings.cost_lr),
                CRITIC: (functions.critics, settings.critic_lr),
            }
            if settings.opponents == "modelled":
                rates[OPPONENTS] = (self._models.networks, settings.opponent_lr)
            for name, (networks, rate) in rates.items():
                if networks is not None and rate is not None:
                    parameters = list(networks.parameters())
                    uses_sgd = name == REWARD and functions.drawn
                    self.register_optimizer(
                        module_id=module_id,
                        optimizer_name=name,
                        optimizer=torch.optim.SGD(parameters) if uses_sgd else torch.optim.Adam(parameters),
                        params=parameters,
                        lr_or_lr_schedule=rate,
                    )

    @override(BatchedLearner)
    def update(
        self,
        *,
        training_data: TrainingData,
        timesteps: dict[str, Any],
        phase: str = POLICIES_PHASE,
        report: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Runs one phase of an update. Incentive functions are not trained while influence estimators warm up.

        Args:
            training_data: The rollout.
            timesteps: Counters of environment steps and iterations.
            phase: ``policies`` or ``incentives``.
            report: If True, returns the metrics since the last report.
            **kwargs: Other arguments of :meth:`BatchedLearner.update`.
        """
        if phase == POLICIES_PHASE:
            results = super().update(training_data=training_data, timesteps=timesteps, report=report, **kwargs)
            if self._iteration < self._warmup:
                self._lesson = self._drawn = None
            return results
        if self._lesson is not None:
            training_data.solve_refs()
            parts = self.on_device(training_data.batch)
            self._cost_coeff.update(timestep=timesteps[NUM_ENV_STEPS_SAMPLED_LIFETIME])
            self._learn_incentives(self._lesson, parts, self.joint_columns(parts))
            self._lesson = None
        return self.metrics.reduce() if report else {}

    # --- the first phase: policies ----------------------------------------------------------------------------------

    @override(BatchedLearner)
    @torch.no_grad()
    def prepare(self, parts: dict[str, dict[str, Tensor]], joint: Joint) -> dict[str, dict[str, Any]]:
        """Prepares training batches, with incentives recomputed by the current incentive functions.

        Incentive functions may have been updated since the rollout was sampled. Keeps the batches and the policies'
        parameters for the second phase.
        """
        if not self._givers:
            return super().prepare(parts, joint)
        if self._functions.drawn:
            batches = super().prepare(parts, joint)
            self._drawn = (self._inputs(parts, joint), joint, self._advantages_in(batches, joint))
            return batches
        inputs = self._inputs(parts, joint)
        incentives = self._functions.incentives(*inputs).unflatten(0, joint["ended"].shape)
        incentives = incentives * self._given_to(joint)[..., None, :]
        joint[INCENTIVES] = torch.where(self._giving(joint)[..., None], incentives, joint[INCENTIVES])
        joint[RECEIVED] = received(joint[INCENTIVES])
        batches = super().prepare(parts, joint)
        params_before = {
            key: {name: value.detach().clone() for name, value in self._acts_by(key).items()} for key in batches
        }
        self._lesson = _Lesson(*inputs, joint, batches, params_before)
        return batches

    @override(BatchedLearner)
    def improve(self, batches: dict[str, dict[str, Any]], *args: Any) -> None:
        """Trains policies; if incentives are sampled, also trains incentive functions by policy gradients."""
        super().improve(batches, *args)
        if self._drawn is not None:
            inputs, joint, advantages = self._drawn
            noise = joint[NOISE]
            outputs = self._functions.outputs(*inputs).unflatten(0, advantages.shape[:2])
            # The score function of a normal distribution with standard deviation 1 is the noise.
            objective = (outputs * noise * self._functions.paid_to * advantages[..., None]).sum(-1)
            loss = -self._per_episode(objective, joint)
            self._step(REWARD, _gradient(loss, list(self._functions.functions.parameters())))
            self.metrics.log_value((INCENTIVES_MODULE_ID, "incentive_loss"), loss.detach(), window=1)
            self._drawn = None

    def _advantages_in(self, batches: dict[str, dict[str, Any]], joint: Joint) -> Tensor:
        """Returns the advantages of givers, ``[B, T, N]``; zero for masked steps and for agents without incentives."""
        advantages = torch.zeros_like(joint["rewards"])
        for module_id, columns in batches.items():
            agents, mask = self._agents[module_id], columns.get(Columns.LOSS_MASK)
            rows = columns[Postprocessing.ADVANTAGES]
            rows = rows if mask is None else rows * mask
            # Advantages of the members of a pool can be added: each is zero where another member plays.
            advantages[..., agents] += rows.view(len(advantages), len(agents), -1).transpose(1, 2)
        return advantages * self._giving(joint)

    def _inputs(self, parts: dict[str, dict[str, Tensor]], joint: Joint) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns the inputs of incentive functions: observations, actions and the sums of incentives given before."""
        num_envs, num_steps, n = joint["actions"].shape
        obs = self._observed(parts, (num_envs, num_steps, n)).flatten(0, 1)
        given_before = joint[GIVEN].flatten(0, 1) if self._functions.observes_given else None
        return obs, joint["actions"].flatten(0, 1), given_before

    def _observed(self, parts: dict[str, dict[str, Tensor]], shape: Sequence[int]) -> Tensor:
        """Returns the observations of trained agents, ``[B, T, N, *obs_shape]``; zero for the others."""
        space = self._functions.observation_space
        obs = torch.zeros(*shape, *space.shape, device=self._device)
        for module_id, agents in self._agents.items():
            rows = parts[module_id][Columns.OBS].unflatten(0, (shape[0], len(agents), shape[1]))
            obs[:, :, agents] = rows.transpose(1, 2).to(obs.dtype)
        return obs

    @staticmethod
    def _valid(joint: Joint) -> Tensor:
        """Returns the mask of valid steps, ``[B, T]`` bool, independent of pool members."""
        return joint.get(VALID, torch.ones_like(joint["ended"]))

    def _giving(self, joint: Joint) -> Tensor:
        """Returns the valid steps in which a trained giver plays each agent, ``[B, T, N]`` bool."""
        return self.rollout_mask(joint).where(self._gives, joint["rewards"])

    def _given_to(self, joint: Joint) -> Tensor:
        """Returns the valid steps in which a trained player plays each agent, ``[B, T, N]`` bool."""
        return self.rollout_mask(joint).where(self._receives, joint["rewards"])

    def _giver_mask(self, joint: Joint) -> Tensor:
        """Returns the mask of the givers' statistics, bool: ``[B, T]``, or ``[B, T, N]`` with pools."""
        return self._giving(joint) if MEMBERS in joint else self._valid(joint)

    # --- the second phase: incentive functions ----------------------------------------------------------------------

    def _learn_incentives(self, lesson: _Lesson, parts: dict[str, dict[str, Tensor]], joint: Joint) -> None:
        """Updates incentive functions on the rollout that followed the last policy update.

        Args:
            lesson: The rollout of the policy update.
            parts: Columns of the rollout after it, by module.
            joint: Columns of environment steps of the rollout after it.
        """
        gains = self._gains(parts, joint)
        if self._settings.opponents == "known":
            credit = self._credit(lesson, parts, joint, gains)
        else:
            credit = self._credit_by_models(lesson, parts, joint, gains)
        gamma, lambda_ = self._gamma.lookup(lesson.joint), self._lambda.lookup(lesson.joint)
        derivatives = worth_of_incentives(credit, gamma * lambda_)
        functions, settings = self._functions, self._settings
        shares = functions.shares(lesson.seen, lesson.actions, lesson.given)
        shares = shares.unflatten(0, lesson.joint["ended"].shape)
        shares = shares * self._giving(lesson.joint)[..., None] * self._given_to(lesson.joint)[..., None, :]
        giving_derivatives = derivatives
        if settings.charge_giver:
            # An incentive is also subtracted from the rewards of the giver's own policy.
            giving_derivatives = derivatives - derivatives.diagonal(dim1=-2, dim2=-1)[..., None]
        incentive_loss = settings.max_incentive * (shares * giving_derivatives).sum()
        discounts = gamma ** torch.arange(self._steps, device=self._device)[:, None]
        cost = self._cost_coeff.get_current_value() * self._per_episode(shares.sum(-1) * discounts, lesson.joint)
        parameters = list(functions.functions.parameters())
        gradients_by_loss = [_gradient(loss, parameters) for loss in (incentive_loss, cost)]
        if settings.cost_lr is None:
            gradients_by_loss = [[a + b for a, b in zip(*gradients_by_loss, strict=True)]]
        for name, gradient in zip((REWARD, COST), gradients_by_loss, strict=False):
            self._step(name, gradient)
        metrics = {"incentive_loss": incentive_loss.detach(), "incentive_cost": cost.detach()}
        self.metrics.log_dict(metrics, key=INCENTIVES_MODULE_ID, window=1)

    def _step(self, name: str, gradient: list[Tensor]) -> None:
        """Takes one step of an optimizer of incentive functions.

        Args:
            name: Name of the optimizer.
            gradient: Gradient of a sum over this learner's episodes, one tensor per parameter.
        """
        averaged_over_learners(gradient, 1)
        optimizer = self.get_optimizer(INCENTIVES_MODULE_ID, name)
        for parameter, part in zip(optimizer.param_groups[0]["params"], gradient, strict=True):
            parameter.grad = part
        optimizer.step()
        optimizer.zero_grad()

    def _episodes(self, joint: Joint) -> float | Tensor:
        """Returns the number of episodes on all learners; with pools, those in which each giver plays, ``[N]``."""
        if MEMBERS not in joint:
            return averaged_over_learners([torch.zeros(1, device=self._device)], len(joint["rewards"]))
        episodes_per_giver = self._giving(joint).any(1).sum(0).to(joint["rewards"].dtype)
        return sum_over_learners(episodes_per_giver).clamp(min=1.0)

    def _per_episode(self, values: Tensor, joint: Joint) -> Tensor:
        """Averages values ``[B, T, N]`` of each giver over the episodes in which it plays, and sums over givers."""
        episodes = self._episodes(joint)
        if isinstance(episodes, Tensor):
            return (values.sum((0, 1)) / episodes).sum()
        return values.sum() / episodes

    @torch.no_grad()
    def _gains(self, parts: dict[str, dict[str, Tensor]], joint: Joint) -> Tensor:
        """Returns every giver's advantages with respect to extrinsic rewards, ``[B, T, N]``; zero for masked steps."""
        rewards, gamma, lambda_ = joint["rewards"], self._gamma.lookup(joint), self._lambda.lookup(joint)
        values, next_values = torch.zeros_like(rewards), torch.zeros_like(rewards)
        if self._functions.critics is not None:
            has_critic = self._has_critic.lookup(joint)
            values, next_values = (column * has_critic for column in self._extrinsic_values(parts, joint))
        gains = generalized_advantages(rewards, values, next_values, joint["ended"], gamma=gamma, lambda_=lambda_)
        if self._functions.critics is not None:
            self._fit_critics(parts, joint, gains + values)
        if self.config.use_baseline:
            gains = subtract_mean(gains, self._giver_mask(joint))
        return gains * self._giving(joint)

    def _extrinsic_values(self, parts: dict[str, dict[str, Tensor]], joint: Joint) -> tuple[Tensor, Tensor]:
        """Returns the values of extrinsic rewards before and after every step, each ``[B, T, N]``."""
        envs, steps, n = joint["actions"].shape
        functions = self._functions
        values = functions.values(self._observed(parts, (envs, steps, n)).flatten(0, 1)).view(envs, steps, n)
        last_rows = {key: {Columns.OBS: parts[STREAMS_PREFIX + key][LAST + Columns.OBS]} for key in self._agents}
        last = functions.values(self._observed(last_rows, (envs, 1, n)).flatten(0, 1)).view(envs, 1, n)
        next_values = torch.cat([values[:, 1:], last], 1)
        at_end = torch.zeros_like(values)
        if self.config.bootstrap_at_horizon:
            cut_off = joint["truncated"][:, -1] & ~joint["terminated"][:, -1]
            at_end[:, -1] = last[:, 0] * cut_off[:, None]
        return values, torch.where(joint["ended"][..., None], at_end, next_values)

    @torch.enable_grad()
    def _fit_critics(self, parts: dict[str, dict[str, Tensor]], joint: Joint, targets: Tensor) -> None:
        """Takes gradient steps of the critics of extrinsic rewards towards their targets, ``[B, T, N]``."""
        functions = self._functions
        assert functions.critics is not None
        parameters = list(functions.critics.parameters())
        obs, mask = self._observed(parts, joint["actions"].shape).flatten(0, 1), self._giving(joint)
        for _ in range(self._settings.critic_epochs):
            squared_errors = (functions.values(obs).view_as(targets) - targets).square() * mask
            self._step(CRITIC, _gradient(self._per_episode(squared_errors, joint) / self._steps, parameters))

    def _credit(self, lesson: _Lesson, parts: dict[str, dict[str, Tensor]], joint: Joint, gains: Tensor) -> Tensor:
        """Computes the derivatives of givers' losses by the advantages that policies were updated on.

        Args:
            lesson: The rollout of the policy update.
            parts: Columns of the rollout after it, by module.
            joint: Columns of environment steps of the rollout after it.
            gains: ``[B, T, N]``, advantages of givers in the rollout after it.

        Returns:
            ``[B, T, N, N]`` by ``[giver, updated agent]``. The diagonal is zero unless givers are charged.
        """
        n = gains.shape[-1]
        credit = torch.zeros(*lesson.joint["ended"].shape, n, n, device=self._device)
        for module_id, columns in lesson.columns.items():
            agents = self._agents[module_id]
            givers = [giver for giver in self._givers if any(self._counts(giver, agent) for agent in agents)]
            if not givers:
                continue
            batch = with_state(self.module_rows(module_id, parts, joint))
            directions = self._directions(module_id, givers, batch, gains / self._episodes(joint))
            derivatives = self._changes(module_id, with_state(columns), lesson.before[module_id], directions)
            for giver, derivative in zip(givers, derivatives, strict=True):
                by_agent = derivative.unflatten(0, (-1, len(agents), self._steps)).transpose(1, 2)
                for slot, agent in enumerate(agents):
                    if self._counts(giver, agent):
                        credit[:, :, giver, agent] += by_agent[:, :, slot]
        # Policies without a critic are trained on returns minus the mean return, so the derivative is centered as well.
        is_centered = self._centered.lookup(lesson.joint)
        is_centered = is_centered if is_centered.dim() == 1 else is_centered[:, :, None]
        if MEMBERS in lesson.joint:
            by_giver = [self.over_members(lesson.joint, subtract_mean, values) for values in credit.unbind(2)]
            centered_credit = torch.stack(by_giver, 2)
        else:
            centered_credit = subtract_mean(credit.flatten(2), self._valid(lesson.joint)).view_as(credit)
        return torch.where(is_centered, centered_credit, credit) * self._given_to(lesson.joint)[..., None, :]

    def _credit_by_models(
        self, lesson: _Lesson, parts: dict[str, dict[str, Tensor]], joint: Joint, gains: Tensor
    ) -> Tensor:
        """Computes the derivatives of :meth:`_credit` with the givers' models of co-players instead of their policies.

        A giver observes the extrinsic rewards of co-players and its own incentives for them, assumes that they are
        trained on the resulting returns, and simulates this update of its models. The models are fitted to the actions
        of the rollouts before and after the update.
        """
        models, recipients = self._models, self._models.others
        n, valid, lesson_valid = gains.shape[-1], self._valid(joint), self._valid(lesson.joint)
        givers = torch.arange(n, device=self._device).repeat_interleave(n - 1)
        obs, actions, incentives = lesson.seen, lesson.actions, lesson.joint[INCENTIVES]
        gamma = self._gamma.lookup(lesson.joint)
        self._fit_models(obs, actions, lesson_valid)
        parameters = dict(models.networks.named_parameters(prefix="networks"))
        lesson_rows = lesson_valid.flatten()

        def log_probabilities(of: Mapping[str, Tensor], *rows: Tensor) -> Tensor:
            return torch.func.functional_call(models, dict(of), rows)

        # The assumed policy step of the recipients, each with its own learning rate.
        mask, zeros = lesson_valid[..., None, None], torch.zeros_like(incentives)
        rewards = (lesson.joint["rewards"][..., None, :] + incentives) * mask
        returns = generalized_advantages(rewards, zeros, zeros, ~lesson_valid, gamma=gamma, lambda_=1.0)
        advantages = self._less_mean(returns, lesson_valid) * mask
        step_weights = advantages.flatten(0, 1)[:, givers, recipients].t()
        steps = _gradient((log_probabilities(parameters, obs, actions) * step_weights).sum(), list(parameters.values()))
        episodes = averaged_over_learners(steps, len(lesson_valid))
        sizes = (self._rates()[recipients] / episodes)[:, None, None]
        updated_params = {
            name: (param + sizes * step).detach().requires_grad_()
            for (name, param), step in zip(parameters.items(), steps, strict=True)
        }
        # The gradient of the givers' losses with respect to the updated models.
        rows = (self._observed(parts, joint["actions"].shape).flatten(0, 1), joint["actions"].flatten(0, 1))
        weights = -gains.flatten(0, 1)[:, givers].t() / self._episodes(joint)
        direction = _gradient((log_probabilities(updated_params, *rows) * weights).sum(), list(updated_params.values()))
        averaged_over_learners(direction, 1)
        leaves = {name: param.detach().requires_grad_() for name, param in parameters.items()}
        (derivative,) = directional(
            lambda: log_probabilities(leaves, obs, actions).flatten(), list(leaves.values()), [direction]
        )
        derivative = derivative.view(n * (n - 1), -1) * sizes[:, :, 0] * lesson_rows
        credit = torch.zeros(len(lesson_rows), n, n, device=self._device)
        credit[:, givers, recipients] = derivative.t()
        credit = credit.unflatten(0, lesson_valid.shape)
        self._fit_models(*rows, valid)
        return self._less_mean(credit, lesson_valid) * mask

    def _less_mean(self, of_pairs: Tensor, valid: Tensor) -> Tensor:
        """Subtracts the mean over episodes at each step from ``[B, T, N, N]``, if ``use_baseline`` is set."""
        return subtract_mean(of_pairs.flatten(2), valid).view_as(of_pairs) if self.config.use_baseline else of_pairs

    def _fit_models(self, seen: Tensor, actions: Tensor, valid: Tensor) -> None:
        """Takes gradient steps of all models of co-players on the log-likelihood of their actions.

        Args:
            seen: ``[rows, N, *obs_shape]``, observations.
            actions: ``[rows, N]`` int64.
            valid: ``[B, T]`` bool, the mask of the rows.
        """
        models, rows = self._models, valid.flatten()
        episodes = averaged_over_learners([torch.zeros(1, device=self._device)], len(valid))
        parameters, count = list(models.networks.parameters()), episodes * self._steps
        for epoch in range(self._settings.opponent_epochs):
            loss = -(models(seen, actions) * rows).sum() / count
            if epoch == 0:
                self.metrics.log_value((OPPONENTS_MODULE_ID, "opponents_loss"), loss.detach(), window=1)
            self._step(OPPONENTS, _gradient(loss, parameters))

    def _rates(self) -> Tensor:
        """Returns the learning rate of each agent's policy, ``[N]``; zero for agents that are not trained."""
        rates = torch.zeros(len(self._pool_members), device=self._device)
        for module_id, agents in self._agents.items():
            optimizers = dict(self.get_optimizers_for_module(module_id))
            optimizers.pop(CRITIC, None)
            (optimizer,) = optimizers.values()
            rates[agents] = float(self._get_optimizer_lr(optimizer))
        return rates

    def _counts(self, giver: int, agent: int) -> bool:
        """Returns whether the update of an agent enters a giver's loss.

        This holds for every co-player, and for the giver itself if incentives are subtracted from its rewards.
        """
        return agent != giver or self._settings.charge_giver

    def _directions(
        self, module_id: str, givers: list[int], batch: dict[str, Any], gains: Tensor
    ) -> list[list[Tensor]]:
        """Returns for each giver the gradient of its loss with respect to a policy after its update.

        Args:
            module_id: The policy.
            givers: Indices of the givers.
            batch: The policy's rows in the rollout after the update.
            gains: ``[B, T, N]``, each giver's advantages divided by the number of its episodes on all learners.
        """
        enters_loss = [[self._counts(giver, agent) for agent in self._agents[module_id]] for giver in givers]
        weights = (
            torch.tensor(enters_loss, device=self._device)[:, None, :, None]
            * -gains[..., givers].permute(2, 0, 1)[:, :, None]
        ).flatten(1)
        mask = batch.get(Columns.LOSS_MASK)
        if mask is not None:
            weights = weights * mask
        parameters = list(self._trained[module_id].values())
        with torch.backends.cudnn.flags(enabled=False):
            log_probabilities = _LogProbabilities(self.module[module_id].unwrapped())(batch)
            by_giver = gradients(log_probabilities, parameters, weights)
        for gradient in by_giver:
            averaged_over_learners(gradient, 1)
        return by_giver

    def _changes(
        self, module_id: str, batch: dict[str, Any], before: dict[str, Tensor], directions: list[list[Tensor]]
    ) -> list[Tensor]:
        """Returns for each giver the derivatives of its loss by the advantages of a policy's update, ``[rows]``.

        Args:
            module_id: The policy.
            batch: The rows of the update.
            before: Parameters and epsilon of the policy before the update, by name.
            directions: For each giver the gradient of its loss with respect to the policy after the update.
        """
        function = _LogProbabilities(self.module[module_id].unwrapped())
        past_params = {f"policy.{name}": value for name, value in before.items()}
        leaves = [past_params[f"policy.{name}"].requires_grad_() for name in self._trained[module_id]]
        if module_id in self.clipped_directions:
            directions = [orthogonal(direction, self.clipped_directions[module_id]) for direction in directions]
        result = directional(lambda: torch.func.functional_call(function, past_params, (batch,)), leaves, directions)
        mask, size = batch.get(Columns.LOSS_MASK), self._step_size(module_id, batch)
        result = [size * (values if mask is None else values * mask) for values in result]
        if module_id in self.advantage_scales:
            advantages, scale = batch[Postprocessing.ADVANTAGES], self.advantage_scales[module_id]
            result = [through_standardization(values, advantages, scale, mask) for values in result]
        return result

    def _acts_by(self, module_id: str) -> dict[str, Tensor]:
        """Returns the tensors that determine a policy's actions, by name: its parameters, and epsilon if it has one."""
        epsilon = getattr(self.module[module_id].unwrapped(), "epsilon", None)
        return self._trained[module_id] if epsilon is None else {**self._trained[module_id], "epsilon": epsilon}

    def _step_size(self, module_id: str, batch: dict[str, Any]) -> float | Tensor:
        """Returns the step size of the simulated policy update. PPO policies are approximated by one SGD step."""
        if self._losses[module_id] == PPO_LOSS:
            (optimizer,) = [optimizer for _, optimizer in self.get_optimizers_for_module(module_id)]
            episodes = averaged_over_learners([torch.zeros(1, device=self._device)], self.num_episodes(batch))
            return self._get_optimizer_lr(optimizer) / max(1.0, episodes)
        return self.step_sizes[module_id]


def _gradient(value: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    gradient = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if part is None else part for p, part in zip(parameters, gradient, strict=True)]
