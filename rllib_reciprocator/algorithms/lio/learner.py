"""The learner of LIO: policies that are given incentives, and incentive functions that look through their steps."""

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
    """What policies have just learned from.

    Attributes:
        seen: ``[B * T, N, *obs_shape]``, what givers saw; zero for whoever gives nothing.
        actions: ``[B * T, N]`` int64.
        given: ``[B * T, N, N - 1]``, what each had given before, if that is seen.
        joint: Columns of joint steps, ``[B, T, ..]``.
        columns: The rows of each learning module.
        before: Its parameters, and how much it explored, before it learned, by name.
    """

    seen: Tensor
    actions: Tensor
    given: Tensor | None
    joint: Joint
    columns: dict[str, dict[str, Any]]
    before: dict[str, dict[str, Tensor]]


class _LogProbabilities(nn.Module):
    """Log-probabilities of the actions in rows, as a function of a policy's parameters."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """``[rows]``."""
        out = self.policy.forward_train(batch)
        distribution = self.policy.get_train_action_dist_cls().from_logits(out[Columns.ACTION_DIST_INPUTS])
        return distribution.logp(batch[Columns.ACTIONS])


class LIOLearner(BatchedLearner):
    """Learns in two phases: policies from a sample, then incentive functions from what comes of it."""

    keeps_advantage_scales = True

    @override(BatchedLearner)
    def build(self) -> None:
        """Builds modules and optimizers, and notes who gives."""
        self._givers = self.config.givers()
        settings = self.config.intrinsic_of_all(INCENTIVES, self.config.make_game())
        assert isinstance(settings, IncentiveSettings)
        self._settings = settings
        # For each agent, which of its pool members give and which are given to.
        self._gives = self.member_flags(lambda member: member.learns and INCENTIVES in member.intrinsic)
        self._receives = self.member_flags(lambda member: member.learns)
        super().build()
        self._cost_coeff = Scheduler(fixed_value_or_schedule=settings.cost_coeff)
        self._lesson: _Lesson | None = None
        # Where giving is a continuous action: what functions saw, what was drawn, and what givers learn from.
        self._drawn: tuple[tuple[Tensor, Tensor, Tensor | None], Joint, Tensor] | None = None
        if not settings.charge_giver:
            self._intrinsic.pop(INCENTIVES, None)
        # The parameters of policies, without those of their critics, by module and name.
        self._trained: dict[str, dict[str, Tensor]] = {}
        for module_id in self._agents:
            module = self.module[module_id].unwrapped()
            critic = set(critic_parameters(module))
            self._trained[module_id] = {name: each for name, each in module.named_parameters() if each not in critic}

    @property
    def _functions(self) -> IncentiveFunctions:
        return self.module[INCENTIVES_MODULE_ID].unwrapped()

    @property
    def _models(self) -> OpponentModels:
        return self.module[OPPONENTS_MODULE_ID].unwrapped()

    @override(BatchedLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Those of players, and those of incentive functions: what they bring, what they cost, and their critics."""
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
                    descends = name == REWARD and functions.drawn
                    self.register_optimizer(
                        module_id=module_id,
                        optimizer_name=name,
                        optimizer=torch.optim.SGD(parameters) if descends else torch.optim.Adam(parameters),
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
        """One phase of an update; incentive functions learn nothing while estimators warm up."""
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
        """As in other algorithms; what is given counts as incentive functions give it now.

        They may have learned since it was sampled. What policies are about to learn from, and what they are, is kept
        for the second phase.
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
        before = {key: {name: each.detach().clone() for name, each in self._acts_by(key).items()} for key in batches}
        self._lesson = _Lesson(*inputs, joint, batches, before)
        return batches

    @override(BatchedLearner)
    def improve(self, batches: dict[str, dict[str, Any]], *args: Any) -> None:
        """As in other algorithms; where giving is a continuous action incentive functions learn with policies."""
        super().improve(batches, *args)
        if self._drawn is not None:
            inputs, joint, advantages = self._drawn
            noise = joint[NOISE]
            outputs = self._functions.outputs(*inputs).unflatten(0, advantages.shape[:2])
            # The gradient of the log-density of what was drawn, with a standard deviation of 1, is the noise.
            gained = (outputs * noise * self._functions.paid_to * advantages[..., None]).sum(-1)
            loss = -self._per_episode(gained, joint)
            self._step(REWARD, _gradient(loss, list(self._functions.functions.parameters())))
            self.metrics.log_value((INCENTIVES_MODULE_ID, "incentive_loss"), loss.detach(), window=1)
            self._drawn = None

    def _advantages_in(self, batches: dict[str, dict[str, Any]], joint: Joint) -> Tensor:
        """Returns the advantages that givers learn from, ``[B, T, N]``; zero for steps and agents that do not count."""
        advantages = torch.zeros_like(joint["rewards"])
        for module_id, columns in batches.items():
            agents, mask = self._agents[module_id], columns.get(Columns.LOSS_MASK)
            rows = columns[Postprocessing.ADVANTAGES]
            rows = rows if mask is None else rows * mask
            # Several members of a pool add up: each is zero where another one plays.
            advantages[..., agents] += rows.view(len(advantages), len(agents), -1).transpose(1, 2)
        return advantages * self._giving(joint)

    def _inputs(self, parts: dict[str, dict[str, Tensor]], joint: Joint) -> tuple[Tensor, Tensor, Tensor | None]:
        """What incentive functions see: observations, actions and what was given before, of all joint steps."""
        games, steps, n = joint["actions"].shape
        seen = self._observed(parts, (games, steps, n)).flatten(0, 1)
        given = joint[GIVEN].flatten(0, 1) if self._functions.observes_given else None
        return seen, joint["actions"].flatten(0, 1), given

    def _observed(self, parts: dict[str, dict[str, Tensor]], shape: Sequence[int]) -> Tensor:
        """What learning agents saw, ``[B, T, N, *obs_shape]``; zero for the others."""
        space = self._functions.observation_space
        seen = torch.zeros(*shape, *space.shape, device=self._device)
        for module_id, agents in self._agents.items():
            rows = parts[module_id][Columns.OBS].unflatten(0, (shape[0], len(agents), shape[1]))
            seen[:, :, agents] = rows.transpose(1, 2).to(seen.dtype)
        return seen

    @staticmethod
    def _valid(joint: Joint) -> Tensor:
        """Returns the steps that count, ``[B, T]`` bool, of whichever pool member."""
        return joint.get(VALID, torch.ones_like(joint["ended"]))

    def _giving(self, joint: Joint) -> Tensor:
        """Returns the steps that count in which a trained giver plays each agent, ``[B, T, N]`` bool."""
        return self.rollout_mask(joint).where(self._gives, joint["rewards"])

    def _given_to(self, joint: Joint) -> Tensor:
        """Returns the steps that count in which a trained player plays each agent, ``[B, T, N]`` bool."""
        return self.rollout_mask(joint).where(self._receives, joint["rewards"])

    def _giver_mask(self, joint: Joint) -> Tensor:
        """Returns the steps over which givers' statistics are taken, ``[B, T]``, or with pools ``[B, T, N]``, bool."""
        return self._giving(joint) if MEMBERS in joint else self._valid(joint)

    # --- the second phase: incentive functions ----------------------------------------------------------------------

    def _learn_incentives(self, lesson: _Lesson, parts: dict[str, dict[str, Tensor]], joint: Joint) -> None:
        """Lets incentive functions learn from what came of what policies learned before."""
        gains = self._gains(parts, joint)
        if self._settings.opponents == "known":
            credit = self._credit(lesson, parts, joint, gains)
        else:
            credit = self._credit_by_models(lesson, parts, joint, gains)
        gamma, lambda_ = self._gamma.lookup(lesson.joint), self._lambda.lookup(lesson.joint)
        worth = worth_of_incentives(credit, gamma * lambda_)
        functions, settings = self._functions, self._settings
        shares = functions.shares(lesson.seen, lesson.actions, lesson.given)
        shares = shares.unflatten(0, lesson.joint["ended"].shape)
        shares = shares * self._giving(lesson.joint)[..., None] * self._given_to(lesson.joint)[..., None, :]
        worth_of_giving = worth
        if settings.charge_giver:
            # What one gives is taken off what one's own policy learns from.
            worth_of_giving = worth - worth.diagonal(dim1=-2, dim2=-1)[..., None]
        brought = settings.max_incentive * (shares * worth_of_giving).sum()
        discounts = gamma ** torch.arange(self._steps, device=self._device)[:, None]
        cost = self._cost_coeff.get_current_value() * self._per_episode(shares.sum(-1) * discounts, lesson.joint)
        parameters = list(functions.functions.parameters())
        found = [_gradient(each, parameters) for each in (brought, cost)]
        if settings.cost_lr is None:
            found = [[one + other for one, other in zip(*found, strict=True)]]
        for name, gradient in zip((REWARD, COST), found, strict=False):
            self._step(name, gradient)
        metrics = {"incentive_loss": brought.detach(), "incentive_cost": cost.detach()}
        self.metrics.log_dict(metrics, key=INCENTIVES_MODULE_ID, window=1)

    def _step(self, name: str, gradient: list[Tensor]) -> None:
        """One step of an optimizer of incentive functions, on gradients of sums over this learner's episodes."""
        averaged_over_learners(gradient, 1)
        optimizer = self.get_optimizer(INCENTIVES_MODULE_ID, name)
        for parameter, each in zip(optimizer.param_groups[0]["params"], gradient, strict=True):
            parameter.grad = each
        optimizer.step()
        optimizer.zero_grad()

    def _episodes(self, joint: Joint) -> float | Tensor:
        """Returns the number of episodes on all learners; with pools, ``[N]``, of those in which each giver plays."""
        if MEMBERS not in joint:
            return averaged_over_learners([torch.zeros(1, device=self._device)], len(joint["rewards"]))
        played = self._giving(joint).any(1).sum(0).to(joint["rewards"].dtype)
        return sum_over_learners(played).clamp(min=1.0)

    def _per_episode(self, values: Tensor, joint: Joint) -> Tensor:
        """Returns the sum of values ``[B, T, N]`` of all givers, each averaged over the episodes that it plays."""
        episodes = self._episodes(joint)
        if isinstance(episodes, Tensor):
            return (values.sum((0, 1)) / episodes).sum()
        return values.sum() / episodes

    @torch.no_grad()
    def _gains(self, parts: dict[str, dict[str, Tensor]], joint: Joint) -> Tensor:
        """Returns every giver's advantages of extrinsic rewards, ``[B, T, N]``, zero for steps that do not count."""
        rewards, gamma, lambda_ = joint["rewards"], self._gamma.lookup(joint), self._lambda.lookup(joint)
        before, after = torch.zeros_like(rewards), torch.zeros_like(rewards)
        if self._functions.critics is not None:
            has_critic = self._has_critic.lookup(joint)
            before, after = (values * has_critic for values in self._extrinsic_values(parts, joint))
        gains = generalized_advantages(rewards, before, after, joint["ended"], gamma=gamma, lambda_=lambda_)
        if self._functions.critics is not None:
            self._fit_critics(parts, joint, gains + before)
        if self.config.use_baseline:
            gains = subtract_mean(gains, self._giver_mask(joint))
        return gains * self._giving(joint)

    def _extrinsic_values(self, parts: dict[str, dict[str, Tensor]], joint: Joint) -> tuple[Tensor, Tensor]:
        """What critics of extrinsic rewards expect before and after every step, each ``[B, T, N]``."""
        games, steps, n = joint["actions"].shape
        functions = self._functions
        values = functions.values(self._observed(parts, (games, steps, n)).flatten(0, 1)).view(games, steps, n)
        last_rows = {key: {Columns.OBS: parts[STREAMS_PREFIX + key][LAST + Columns.OBS]} for key in self._agents}
        last = functions.values(self._observed(last_rows, (games, 1, n)).flatten(0, 1)).view(games, 1, n)
        following = torch.cat([values[:, 1:], last], 1)
        at_end = torch.zeros_like(values)
        if self.config.bootstrap_at_horizon:
            cut_off = joint["truncated"][:, -1] & ~joint["terminated"][:, -1]
            at_end[:, -1] = last[:, 0] * cut_off[:, None]
        return values, torch.where(joint["ended"][..., None], at_end, following)

    @torch.enable_grad()
    def _fit_critics(self, parts: dict[str, dict[str, Tensor]], joint: Joint, targets: Tensor) -> None:
        """Takes steps of the critics of extrinsic rewards towards their targets."""
        functions = self._functions
        assert functions.critics is not None
        parameters = list(functions.critics.parameters())
        seen, giving = self._observed(parts, joint["actions"].shape).flatten(0, 1), self._giving(joint)
        for _ in range(self._settings.critic_epochs):
            squares = (functions.values(seen).view_as(targets) - targets).square() * giving
            self._step(CRITIC, _gradient(self._per_episode(squares, joint) / self._steps, parameters))

    def _credit(self, lesson: _Lesson, parts: dict[str, dict[str, Tensor]], joint: Joint, gains: Tensor) -> Tensor:
        """What an advantage in each step changes of a giver's loss, ``[B, T, N, N]`` by ``[giver, who learned by it]``.

        Of a giver itself if givers are charged.
        """
        n = gains.shape[-1]
        credit = torch.zeros(*lesson.joint["ended"].shape, n, n, device=self._device)
        for module_id, columns in lesson.columns.items():
            agents = self._agents[module_id]
            givers = [giver for giver in self._givers if any(self._counts(giver, agent) for agent in agents)]
            if not givers:
                continue
            after = with_state(self.module_rows(module_id, parts, joint))
            directions = self._directions(module_id, givers, after, gains / self._episodes(joint))
            changes = self._changes(module_id, with_state(columns), lesson.before[module_id], directions)
            for giver, change in zip(givers, changes, strict=True):
                by_agent = change.unflatten(0, (-1, len(agents), self._steps)).transpose(1, 2)
                for slot, agent in enumerate(agents):
                    if self._counts(giver, agent):
                        credit[:, :, giver, agent] += by_agent[:, :, slot]
        # Recipients without a critic learn from returns minus their mean.
        centers = self._centered.lookup(lesson.joint)
        centers = centers if centers.dim() == 1 else centers[:, :, None]
        if MEMBERS in lesson.joint:
            by_giver = [self.over_members(lesson.joint, subtract_mean, of_giver) for of_giver in credit.unbind(2)]
            centered = torch.stack(by_giver, 2)
        else:
            centered = subtract_mean(credit.flatten(2), self._valid(lesson.joint)).view_as(credit)
        return torch.where(centers, centered, credit) * self._given_to(lesson.joint)[..., None, :]

    def _credit_by_models(
        self, lesson: _Lesson, parts: dict[str, dict[str, Tensor]], joint: Joint, gains: Tensor
    ) -> Tensor:
        """As :meth:`_credit`, by what givers take the others' policies to be.

        A giver sees what others were paid by the game and by itself, takes them to learn from their returns, and lets
        its models of them take that step. The models are fitted to what was done before and after it.
        """
        models, others = self._models, self._models.others
        n, valid, lesson_valid = gains.shape[-1], self._valid(joint), self._valid(lesson.joint)
        givers = torch.arange(n, device=self._device).repeat_interleave(n - 1)
        seen, actions, incentives = lesson.seen, lesson.actions, lesson.joint[INCENTIVES]
        gamma = self._gamma.lookup(lesson.joint)
        self._fit_models(seen, actions, lesson_valid)
        parameters = dict(models.networks.named_parameters(prefix="networks"))
        lesson_rows = lesson_valid.flatten()

        def log_probabilities(of: Mapping[str, Tensor], *rows: Tensor) -> Tensor:
            return torch.func.functional_call(models, dict(of), rows)

        # The step that recipients are taken to have made, each with its own rate.
        counted, none = lesson_valid[..., None, None], torch.zeros_like(incentives)
        rewards = (lesson.joint["rewards"][..., None, :] + incentives) * counted
        returns = generalized_advantages(rewards, none, none, ~lesson_valid, gamma=gamma, lambda_=1.0)
        advantages = self._less_mean(returns, lesson_valid) * counted
        learned_by = advantages.flatten(0, 1)[:, givers, others].t()
        gained = _gradient((log_probabilities(parameters, seen, actions) * learned_by).sum(), list(parameters.values()))
        episodes = averaged_over_learners(gained, len(lesson_valid))
        sizes = (self._rates()[others] / episodes)[:, None, None]
        hat = {
            name: (each + sizes * step).detach().requires_grad_()
            for (name, each), step in zip(parameters.items(), gained, strict=True)
        }
        # What they would do after it, weighted with what givers gain by it.
        rows = (self._observed(parts, joint["actions"].shape).flatten(0, 1), joint["actions"].flatten(0, 1))
        weights = -gains.flatten(0, 1)[:, givers].t() / self._episodes(joint)
        direction = _gradient((log_probabilities(hat, *rows) * weights).sum(), list(hat.values()))
        averaged_over_learners(direction, 1)
        leaves = {name: each.detach().requires_grad_() for name, each in parameters.items()}
        (change,) = directional(
            lambda: log_probabilities(leaves, seen, actions).flatten(), list(leaves.values()), [direction]
        )
        change = change.view(n * (n - 1), -1) * sizes[:, :, 0] * lesson_rows
        credit = torch.zeros(len(lesson_rows), n, n, device=self._device)
        credit[:, givers, others] = change.t()
        credit = credit.unflatten(0, lesson_valid.shape)
        self._fit_models(*rows, valid)
        return self._less_mean(credit, lesson_valid) * counted

    def _less_mean(self, of_pairs: Tensor, valid: Tensor) -> Tensor:
        """Subtracts from ``[B, T, N, N]`` the mean at each step, if policies learn from returns minus their mean."""
        return subtract_mean(of_pairs.flatten(2), valid).view_as(of_pairs) if self.config.use_baseline else of_pairs

    def _fit_models(self, seen: Tensor, actions: Tensor, valid: Tensor) -> None:
        """Takes steps of all models of others towards the actions that these took, ``[rows, ..]``."""
        models, rows = self._models, valid.flatten()
        episodes = averaged_over_learners([torch.zeros(1, device=self._device)], len(valid))
        parameters, count = list(models.networks.parameters()), episodes * self._steps
        for epoch in range(self._settings.opponent_epochs):
            loss = -(models(seen, actions) * rows).sum() / count
            if epoch == 0:
                self.metrics.log_value((OPPONENTS_MODULE_ID, "opponents_loss"), loss.detach(), window=1)
            self._step(OPPONENTS, _gradient(loss, parameters))

    def _rates(self) -> Tensor:
        """The learning rate of each agent's policy, zero for who does not learn, ``[N]``."""
        rates = torch.zeros(len(self._pool_members), device=self._device)
        for module_id, agents in self._agents.items():
            optimizers = dict(self.get_optimizers_for_module(module_id))
            optimizers.pop(CRITIC, None)
            (optimizer,) = optimizers.values()
            rates[agents] = float(self._get_optimizer_lr(optimizer))
        return rates

    def _counts(self, giver: int, agent: int) -> bool:
        """Whether a giver looks at what an agent learns: a recipient, or itself if giving is taken off its rewards."""
        return agent != giver or self._settings.charge_giver

    def _directions(
        self, module_id: str, givers: list[int], batch: dict[str, Any], gains: Tensor
    ) -> list[list[Tensor]]:
        """Returns for each giver the gradient of its loss with respect to a policy as it is now.

        Args:
            module_id: The policy.
            givers: The givers.
            batch: The policy's rows since it learned.
            gains: ``[B, T, N]``, each giver's advantages, over the number of its episodes on all learners.
        """
        counted = [[self._counts(giver, agent) for agent in self._agents[module_id]] for giver in givers]
        weights = (
            torch.tensor(counted, device=self._device)[:, None, :, None]
            * -gains[..., givers].permute(2, 0, 1)[:, :, None]
        ).flatten(1)
        mask = batch.get(Columns.LOSS_MASK)
        if mask is not None:
            weights = weights * mask
        parameters = list(self._trained[module_id].values())
        with torch.backends.cudnn.flags(enabled=False):
            log_probabilities = _LogProbabilities(self.module[module_id].unwrapped())(batch)
            found = gradients(log_probabilities, parameters, weights)
        for each in found:
            averaged_over_learners(each, 1)
        return found

    def _changes(
        self, module_id: str, batch: dict[str, Any], before: dict[str, Tensor], directions: list[list[Tensor]]
    ) -> list[Tensor]:
        """For each giver how its loss changes with the advantages that a policy learned from, ``[rows]``.

        Args:
            module_id: The policy.
            batch: The rows that it learned from.
            before: What it was then, by name.
            directions: For each giver the gradient of its loss with respect to the policy after it learned.
        """
        function = _LogProbabilities(self.module[module_id].unwrapped())
        past = {f"policy.{name}": value for name, value in before.items()}
        leaves = [past[f"policy.{name}"].requires_grad_() for name in self._trained[module_id]]
        if module_id in self.clipped_directions:
            directions = [orthogonal(direction, self.clipped_directions[module_id]) for direction in directions]
        changes = directional(lambda: torch.func.functional_call(function, past, (batch,)), leaves, directions)
        mask, size = batch.get(Columns.LOSS_MASK), self._step_size(module_id, batch)
        changes = [size * (change if mask is None else change * mask) for change in changes]
        if module_id in self.advantage_scales:
            advantages, scale = batch[Postprocessing.ADVANTAGES], self.advantage_scales[module_id]
            changes = [through_standardization(change, advantages, scale, mask) for change in changes]
        return changes

    def _acts_by(self, module_id: str) -> dict[str, Tensor]:
        """What a policy acts by, by name: its parameters, and how much it explores."""
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
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if each is None else each for p, each in zip(parameters, found, strict=True)]
