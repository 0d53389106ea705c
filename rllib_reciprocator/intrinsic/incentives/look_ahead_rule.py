"""Look-ahead update of incentive functions, through the gradient steps of the policies that receive incentives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor, nn

from rllib_reciprocator.engine.advantages import JointScale, generalized_advantages, subtract_mean
from rllib_reciprocator.engine.minibatches import with_state
from rllib_reciprocator.engine.update_rule import LEARN, LOOK_AHEAD, Stats, UpdateInfo
from rllib_reciprocator.engine.updates.policy_gradient import critic_parameters
from rllib_reciprocator.intrinsic.incentives.credit import (
    directional,
    gradients,
    incentive_derivatives,
    orthogonal,
    through_standardization,
)
from rllib_reciprocator.intrinsic.incentives.giving import (
    FunctionInputs,
    function_inputs,
    givers_of,
    trained_observations,
)
from rllib_reciprocator.intrinsic.incentives.incentive_rule import COST, CRITIC, REWARD, IncentiveRule, gradient_of
from rllib_reciprocator.intrinsic.incentives.modelled_credit import ModelledCredit
from rllib_reciprocator.intrinsic.incentives.specs import INCENTIVES_MODULE_ID
from rllib_reciprocator.utils.distributed import averaged_over_learners

if TYPE_CHECKING:
    from rllib_reciprocator.engine.config import BatchedConfig
    from rllib_reciprocator.engine.context import RunContext
    from rllib_reciprocator.engine.learner import BatchedLearner
    from rllib_reciprocator.engine.rollout_batch import RolloutBatch
    from rllib_reciprocator.intrinsic.incentives.settings import IncentiveSettings


@dataclass
class PreviousBatch:
    """Rollout of the last policy update, and the policies before it.

    Attributes:
        inputs: Inputs of incentive functions in this rollout.
        batch: The rollout.
        info: Rows that policies learned from, their parameters before, and the scales of their advantages.
    """

    inputs: FunctionInputs
    batch: RolloutBatch
    info: UpdateInfo


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


class LookAheadRule(IncentiveRule):
    """Trains incentive functions on the rollout that follows a policy update.

    Their gradient is that of the giver's return with respect to the incentives of the rollout before, through the
    gradient step that their recipients took on it.

    Source: Yang et al. (2020), equation 6.
    """

    phases: ClassVar[tuple[str, ...]] = (LEARN, LOOK_AHEAD)
    needs_before: ClassVar[bool] = True

    def __init__(
        self, context: RunContext, module_ids: Sequence[str], config: BatchedConfig, settings: IncentiveSettings
    ) -> None:
        """Stores the arguments; there is no previous rollout yet."""
        super().__init__(context, module_ids, config, settings)
        self.givers = givers_of(context)
        self._previous: PreviousBatch | None = None
        # Trained parameters of policies, without their critics, by module and name.
        self._parameters: dict[str, dict[str, Tensor]] = {}

    def check(self) -> None:
        """Checks that modelled policies are trained on advantages that givers can compute."""
        if self.settings.opponents == "modelled" and self.config.scale_advantages:
            raise ValueError(
                "scale_advantages: not supported with incentives.opponents modelled, as givers do not know the scale of"
                " the others' advantages; set it to false"
            )

    def on_built(self, learner: BatchedLearner) -> None:
        """Collects the parameters of policies and builds the schedule of the cost."""
        super().on_built(learner)
        self._cost_coeff = Scheduler(fixed_value_or_schedule=self.settings.cost_coeff)
        for module_id in self.context.trained:
            module = learner.unwrapped(module_id)
            critic = set(critic_parameters(module))
            self._parameters[module_id] = {
                name: param for name, param in module.named_parameters() if param.requires_grad and param not in critic
            }

    def update(self, learner: BatchedLearner, batch: RolloutBatch, info: UpdateInfo) -> Stats:
        """Stores the rollout of a policy update; on the rollout after it, updates incentive functions."""
        if info.phase == LEARN:
            self._previous = PreviousBatch(function_inputs(self.context, self.functions, batch), batch, info)
            return {}
        if self._previous is None:
            return {}
        self._cost_coeff.update(timestep=info.timestep)
        previous, self._previous = self._previous, None
        return self._update_functions(previous, batch)

    def _update_functions(self, previous: PreviousBatch, batch: RolloutBatch) -> Stats:
        """Takes one gradient step of incentive functions.

        Args:
            previous: The rollout of the policy update.
            batch: The rollout after it.
        """
        gains, before = self._gains(batch), previous.batch
        stats: Stats = {}
        if self.settings.opponents == "known":
            credit = self._credit(previous, batch, gains)
        else:
            credit, stats = ModelledCredit(self).compute(previous.inputs, before, batch, gains)
        gamma = self.learner.members.gamma.lookup(before.pool_members)
        lambda_ = self.learner.members.lambda_.lookup(before.pool_members)
        derivatives = self.config.reward_scale * incentive_derivatives(credit, gamma * lambda_, before.is_first)
        functions, settings = self.functions, self.settings
        shares = functions.shares(*previous.inputs).unflatten(0, before.ended.shape)
        shares = shares * self.giving.giving(before)[..., None] * self.giving.receiving(before)[..., None, :]
        if settings.charge_giver:
            # An incentive is also subtracted from the rewards of the giver's own policy.
            derivatives = derivatives - derivatives.diagonal(dim1=-2, dim2=-1)[..., None]
        incentive_loss = settings.max_incentive * (shares * derivatives).sum()
        steps = torch.arange(self.context.rollout_steps, device=self.learner.device) % self.giving.episode_steps
        discounts = gamma ** steps[:, None]
        cost = self._cost_coeff.get_current_value() * self.giving.per_episode(shares.sum(-1) * discounts, before)
        parameters = list(functions.functions.parameters())
        gradients_by_loss = [gradient_of(loss, parameters) for loss in (incentive_loss, cost)]
        if settings.cost_lr is None:
            gradients_by_loss = [[a + b for a, b in zip(*gradients_by_loss, strict=True)]]
        for name, gradient in zip((REWARD, COST), gradients_by_loss, strict=False):
            self.step(name, gradient)
        return {**stats, INCENTIVES_MODULE_ID: {"incentive_loss": incentive_loss, "incentive_cost": cost}}

    @torch.no_grad()
    def _gains(self, batch: RolloutBatch) -> Tensor:
        """Returns every giver's advantages with respect to extrinsic rewards, ``[B, T, N]``; zero for masked steps."""
        settings, members = self.learner.members, batch.pool_members
        gamma, lambda_ = settings.gamma.lookup(members), settings.lambda_.lookup(members)
        values, next_values = torch.zeros_like(batch.rewards), torch.zeros_like(batch.rewards)
        if self.functions.critics is not None:
            has_critic = settings.has_critic.lookup(members)
            values, next_values = (column * has_critic for column in self._extrinsic_values(batch))
        gains = generalized_advantages(batch.rewards, values, next_values, batch.ended, gamma=gamma, lambda_=lambda_)
        if self.functions.critics is not None:
            self._fit_critics(batch, gains + values)
        if self.config.use_baseline:
            gains = subtract_mean(gains, self.giving.giver_mask(batch))
        return gains * self.giving.giving(batch)

    def _extrinsic_values(self, batch: RolloutBatch) -> tuple[Tensor, Tensor]:
        """Returns the values of extrinsic rewards before and after every step, each ``[B, T, N]``."""
        functions, shape = self.functions, batch.actions.shape
        values = functions.values(self._observations(batch).flatten(0, 1)).view(shape)
        last_obs = {module_id: columns.last[Columns.OBS].unsqueeze(2) for module_id, columns in batch.modules.items()}
        last = functions.values(trained_observations(self.context, functions, last_obs).flatten(0, 1))
        last = last.view(shape[0], 1, shape[2])
        next_values = torch.cat([values[:, 1:], last], 1)
        at_end = torch.zeros_like(values)
        if self.config.bootstrap_at_horizon:
            cut_off = batch.truncated[:, -1] & ~batch.terminated[:, -1]
            at_end[:, -1] = last[:, 0] * cut_off[:, None]
        return values, torch.where(batch.ended[..., None], at_end, next_values)

    def _observations(self, batch: RolloutBatch) -> Tensor:
        """Returns the observations of trained agents, ``[B, T, N, *obs_shape]``; zero for the others."""
        columns = {module_id: module.steps[Columns.OBS] for module_id, module in batch.modules.items()}
        return trained_observations(self.context, self.functions, columns)

    @torch.enable_grad()
    def _fit_critics(self, batch: RolloutBatch, targets: Tensor) -> None:
        """Takes gradient steps of the critics of extrinsic rewards towards their targets, ``[B, T, N]``."""
        functions = self.functions
        assert functions.critics is not None
        parameters = list(functions.critics.parameters())
        obs, mask = self._observations(batch).flatten(0, 1), self.giving.giving(batch)
        for _ in range(self.settings.critic_epochs):
            squared_errors = (functions.values(obs).view_as(targets) - targets).square() * mask
            loss = self.giving.per_episode(squared_errors, batch) / self.giving.episode_steps
            self.step(CRITIC, gradient_of(loss, parameters))

    def _credit(self, previous: PreviousBatch, batch: RolloutBatch, gains: Tensor) -> Tensor:
        """Computes the derivatives of givers' losses by the advantages that policies were updated on.

        Args:
            previous: The rollout of the policy update.
            batch: The rollout after it.
            gains: ``[B, T, N]``, advantages of givers in the rollout after it.

        Returns:
            ``[B, T, N, N]`` by ``[giver, updated agent]``. The diagonal is zero unless givers are charged.
        """
        n, before = gains.shape[-1], previous.batch
        credit = torch.zeros(*before.ended.shape, n, n, device=gains.device)
        for module_id in previous.info.rows:
            if not self.learner.rule_of[module_id].uses_advantages:
                # Evolved policies take no gradient step through which incentives could have an effect.
                continue
            agents = self.context.agents_of(module_id)
            givers = [giver for giver in self.givers if any(self._counts(giver, agent) for agent in agents)]
            if not givers:
                continue
            rows = with_state(self.learner.rows.of_module(module_id, batch))
            directions = self._directions(module_id, givers, rows, gains / self.giving.episodes(batch))
            derivatives = self._changes(module_id, previous.info, directions)
            for giver, derivative in zip(givers, derivatives, strict=True):
                by_agent = derivative.unflatten(0, (-1, len(agents), self.context.rollout_steps)).transpose(1, 2)
                for slot, agent in enumerate(agents):
                    if self._counts(giver, agent):
                        credit[:, :, giver, agent] += by_agent[:, :, slot]
        for step in self.learner.advantage_steps:
            if isinstance(step, JointScale):
                credit = torch.stack([step.derivatives(before, by_giver) for by_giver in credit.unbind(2)], 2)
        # Policies without a critic are trained on returns minus the mean return, so the derivative is centered as well.
        is_centered = self.learner.members.centered.lookup(before.pool_members)
        is_centered = is_centered if is_centered.dim() == 1 else is_centered[:, :, None]
        if before.pool_members is not None:
            by_giver = [self.learner.members.over_members(before, subtract_mean, values) for values in credit.unbind(2)]
            centered_credit = torch.stack(by_giver, 2)
        else:
            centered_credit = subtract_mean(credit.flatten(2), self.giving.valid(before)).view_as(credit)
        return torch.where(is_centered, centered_credit, credit) * self.giving.receiving(before)[..., None, :]

    def _counts(self, giver: int, agent: int) -> bool:
        """Returns whether the update of an agent enters a giver's loss.

        This holds for every co-player, and for the giver itself if incentives are subtracted from its rewards.
        """
        return agent != giver or self.settings.charge_giver

    def _directions(self, module_id: str, givers: list[int], rows: dict[str, Any], gains: Tensor) -> list[list[Tensor]]:
        """Returns for each giver the gradient of its loss with respect to a policy after its update.

        Args:
            module_id: The policy.
            givers: Indices of the givers.
            rows: The policy's rows in the rollout after the update.
            gains: ``[B, T, N]``, each giver's advantages divided by the number of its episodes on all learners.
        """
        agents = self.context.agents_of(module_id)
        enters_loss = [[self._counts(giver, agent) for agent in agents] for giver in givers]
        weights = (
            torch.tensor(enters_loss, device=gains.device)[:, None, :, None]
            * -gains[..., givers].permute(2, 0, 1)[:, :, None]
        ).flatten(1)
        mask = rows.get(Columns.LOSS_MASK)
        if mask is not None:
            weights = weights * mask
        parameters = list(self._parameters[module_id].values())
        with torch.backends.cudnn.flags(enabled=False):
            log_probabilities = _LogProbabilities(self.learner.unwrapped(module_id))(rows)
            by_giver = gradients(log_probabilities, parameters, weights)
        for gradient in by_giver:
            averaged_over_learners(gradient, 1)
        return by_giver

    def _changes(self, module_id: str, info: UpdateInfo, directions: list[list[Tensor]]) -> list[Tensor]:
        """Returns for each giver the derivatives of its loss by the advantages of a policy's update, ``[rows]``.

        Args:
            module_id: The policy.
            info: Rows of the update, and parameters before it.
            directions: For each giver the gradient of its loss with respect to the policy after the update.
        """
        columns, before = info.rows[module_id], info.parameters_before[module_id]
        rows, rule = with_state(columns), self.learner.rule_of[module_id]
        function = _LogProbabilities(self.learner.unwrapped(module_id))
        # Of the policy without its critic: its parameters, and the probability of exploration.
        names = [*self._parameters[module_id], *(["epsilon"] if "epsilon" in before else [])]
        past_params = {f"policy.{name}": before[name] for name in names}
        leaves = [past_params[f"policy.{name}"].requires_grad_() for name in self._parameters[module_id]]
        clipped_direction = rule.clipped_direction(module_id)
        if clipped_direction is not None:
            directions = [orthogonal(direction, clipped_direction) for direction in directions]
        result = directional(lambda: torch.func.functional_call(function, past_params, (rows,)), leaves, directions)
        mask, size = rows.get(Columns.LOSS_MASK), rule.step_size(self.learner, module_id, columns)
        result = [size * (values if mask is None else values * mask) for values in result]
        if module_id in info.advantage_scales:
            advantages, scale = rows[Postprocessing.ADVANTAGES], info.advantage_scales[module_id]
            result = [through_standardization(values, advantages, scale, mask) for values in result]
        return result
