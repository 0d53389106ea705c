"""Policy gradients and actor-critic: one gradient step per update on the whole rollout, and steps of a critic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.metrics import MODULE_TRAIN_BATCH_SIZE_MEAN
from torch import Tensor, nn

from rllib_reciprocator.engine.minibatches import counted_rows, with_state
from rllib_reciprocator.engine.update_rule import Stats, UpdateInfo, UpdateRule
from rllib_reciprocator.models import LOGITS, all_log_probs
from rllib_reciprocator.utils.distributed import averaged_over_learners, masked_mean

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    from rllib_reciprocator.engine.config import BatchedConfig
    from rllib_reciprocator.engine.context import RunContext
    from rllib_reciprocator.engine.learner import BatchedLearner
    from rllib_reciprocator.engine.rollout_batch import RolloutBatch

# Names of optimizers.
POLICY, CRITIC = "policy", "critic"
# Regularizers (``entropy_form``).
ENTROPY, UNIFORM_KL = "entropy", "uniform_kl"


class PolicyGradientRule(UpdateRule):
    """Trains policies by plain gradient steps on returns.

    Gradients are computed for each module alone, without RLlib's joint forward pass and PyTorch's distributed wrappers,
    and are summed over learners here. The gradient of a policy is that of its loss, summed over steps and averaged over
    episodes.

    Attributes:
        step_sizes: By module id, the factor of the gradient of the summed loss in the last step: the learning rate
            divided by the number of episodes, times the scale from gradient clipping.
        clipped_directions: By module id, the unit vector of the last step, one tensor per parameter, if its gradient
            was clipped; else zeros.
    """

    needs_critic: ClassVar[bool] = False
    uses_lambda: ClassVar[bool] = False
    centers_returns: ClassVar[bool] = True
    needs_whole_episodes: ClassVar[bool] = True
    separate_critic: ClassVar[bool] = True
    clips_by: ClassVar[tuple[str, ...]] = ("global_norm",)

    def __init__(self, context: RunContext, module_ids: Sequence[str], config: BatchedConfig) -> None:
        """Stores the arguments; there are no steps yet."""
        super().__init__(context, module_ids, config)
        self.step_sizes: dict[str, float | Tensor] = {}
        self.clipped_directions: dict[str, list[Tensor]] = {}

    def configure_optimizers(self, learner: BatchedLearner, module_id: str, config: AlgorithmConfig) -> None:
        """Registers SGD for the policy."""
        module = learner.unwrapped(module_id)
        critic = set(critic_parameters(module))
        policy = [param for param in module.parameters() if param.requires_grad and param not in critic]
        learner.register_optimizer(
            module_id=module_id,
            optimizer_name=POLICY,
            optimizer=torch.optim.SGD(policy, lr=1.0),
            params=policy,
            lr_or_lr_schedule=config.lr,
        )

    def update(self, learner: BatchedLearner, batch: RolloutBatch, info: UpdateInfo) -> Stats:
        """Takes one gradient step of each policy on all its rows."""
        stats = {}
        for module_id in self.module_ids:
            if module_id in info.rows:
                columns = info.rows[module_id]
                stats[module_id] = self._step(learner, module_id, columns)
                size = counted_rows(columns)
                learner.metrics.log_value((module_id, MODULE_TRAIN_BATCH_SIZE_MEAN), size, reduce="mean")
        return stats

    def _step(self, learner: BatchedLearner, module_id: str, columns: dict[str, Any]) -> dict[str, Tensor]:
        """Takes one gradient step of a policy.

        Args:
            learner: The learner.
            module_id: Id of the module.
            columns: Its rows, with actions and advantages.

        Returns:
            Terms of the loss, by metric name.
        """
        config, rows = self.config.get_config_for_module(module_id), with_state(columns)
        module = learner.unwrapped(module_id)
        stats: dict[str, Tensor] = {}
        loss = policy_gradient_loss(
            module,
            rows,
            module.forward_train(rows),
            entropy_coeff=learner.entropy_coeff(module_id),
            entropy_form=config.entropy_form,
            stats=stats,
        )
        episodes = learner.rows.num_episodes(columns)
        self.step_sizes[module_id] = self.descend(learner, module_id, POLICY, loss, episodes, config.grad_clip)
        return {**stats, learner.TOTAL_LOSS_KEY: stats[POLICY_LOSS_KEY]}

    def descend(
        self,
        learner: BatchedLearner,
        module_id: str,
        optimizer_name: str,
        total: Tensor,
        count: float,
        clip: float | None,
    ) -> float | Tensor:
        """Takes one optimizer step on the mean loss over all learners.

        Args:
            learner: The learner.
            module_id: Id of the module.
            optimizer_name: Name of the optimizer.
            total: Sum of the loss on this learner.
            count: Number of terms (episodes or rows) in the mean, on this learner.
            clip: Maximum norm of the gradient; None for no clipping.

        Returns:
            Factor of the gradient of ``total``: learning rate divided by the count over all learners, times the scale
            from clipping.
        """
        optimizer = learner.get_optimizer(module_id, optimizer_name)
        (group,) = optimizer.param_groups
        grads = torch.autograd.grad(total, group["params"], allow_unused=True)
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(group["params"], grads, strict=True)]
        size = 1.0 / max(1.0, averaged_over_learners(gradients, count))
        if clip is not None:
            norm = torch.stack(torch._foreach_norm(gradients)).norm() * size
            scale = (clip / norm.clamp(min=1e-12)).clamp(max=1.0)
            if optimizer_name == POLICY:
                # Multiplied by zero instead of branching if the gradient was not clipped: a branch would synchronize
                # with the device.
                unit = torch._foreach_mul(gradients, (scale < 1.0) * size / norm.clamp(min=1e-12))
                self.clipped_directions[module_id] = list(unit)
            size = size * scale
        torch._foreach_mul_(gradients, size)
        for parameter, gradient in zip(group["params"], gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()
        return group["lr"] * size

    def step_size(self, learner: BatchedLearner, module_id: str, rows: dict[str, Any]) -> Tensor | float:
        """Returns the size of the last step."""
        return self.step_sizes[module_id]

    def clipped_direction(self, module_id: str) -> list[Tensor] | None:
        """Returns the unit vector of the last step if gradients are clipped."""
        return self.clipped_directions.get(module_id)


class ActorCriticRule(PolicyGradientRule):
    """Trains policies as :class:`PolicyGradientRule`, on GAE advantages, and their critics by Adam."""

    needs_critic: ClassVar[bool] = True
    uses_lambda: ClassVar[bool] = True
    centers_returns: ClassVar[bool] = False
    needs_whole_episodes: ClassVar[bool] = False
    needs_built_in_networks: ClassVar[bool] = True

    def configure_optimizers(self, learner: BatchedLearner, module_id: str, config: AlgorithmConfig) -> None:
        """Registers SGD for the policy and Adam for the critic."""
        super().configure_optimizers(learner, module_id, config)
        critic = critic_parameters(learner.unwrapped(module_id))
        learner.register_optimizer(
            module_id=module_id,
            optimizer_name=CRITIC,
            optimizer=torch.optim.Adam(critic),
            params=critic,
            lr_or_lr_schedule=config.critic_lr,
        )

    def _step(self, learner: BatchedLearner, module_id: str, columns: dict[str, Any]) -> dict[str, Tensor]:
        """Takes one gradient step of a policy and ``critic_epochs`` steps of its critic on the value targets."""
        stats = super()._step(learner, module_id, columns)
        config, rows = self.config.get_config_for_module(module_id), with_state(columns)
        module, mask = learner.unwrapped(module_id), rows.get(Columns.LOSS_MASK)
        for _ in range(config.critic_epochs):
            squared_error = (module.compute_values(rows) - rows[Postprocessing.VALUE_TARGETS]).square()
            # The value loss before the first step is logged.
            stats.setdefault(VF_LOSS_KEY, masked_mean(squared_error, mask).detach())
            count = len(squared_error) if mask is None else int(mask.sum())
            total = squared_error.sum() if mask is None else (squared_error * mask).sum()
            self.descend(learner, module_id, CRITIC, total, count, config.grad_clip)
        return stats


def policy_gradient_loss(
    module: Any,
    batch: dict[str, Tensor],
    out: dict[str, Tensor],
    *,
    entropy_coeff: Tensor | float,
    entropy_form: str,
    stats: dict[str, Tensor] | None = None,
) -> Tensor:
    """Computes the policy-gradient loss, summed over rows.

    Source: Williams (1992). Yang et al. (2020) also sum over the steps of an episode.

    Args:
        module: The module.
        batch: Rows with actions and advantages; rows where ``loss_mask`` is false do not count.
        out: Outputs of the module's forward pass.
        entropy_coeff: Weight of the regularizer.
        entropy_form: Regularizer: ``entropy``; or ``uniform_kl``, the mean log-probability of all actions without
            exploration.
        stats: Dict to which the terms of the loss are added by metric name; None if they are not logged.

    Returns:
        A scalar.
    """
    mask = batch.get(Columns.LOSS_MASK)
    distribution = module.get_train_action_dist_cls()
    policy = distribution.from_logits(out[Columns.ACTION_DIST_INPUTS])
    gains = policy.logp(batch[Columns.ACTIONS]) * batch[Postprocessing.ADVANTAGES]
    if entropy_form == UNIFORM_KL:
        logits = out.get(LOGITS, out[Columns.ACTION_DIST_INPUTS])
        bonus = all_log_probs(distribution.from_logits(logits), logits).mean(-1)
    else:
        bonus = policy.entropy()
    if stats is not None:
        stats |= {POLICY_LOSS_KEY: -masked_mean(gains, mask), ENTROPY_KEY: masked_mean(policy.entropy(), mask)}
    rows = -gains - entropy_coeff * bonus
    return rows.sum() if mask is None else (rows * mask).sum()


def critic_parameters(module: nn.Module) -> list[Tensor]:
    """Returns the parameters of a module's separate critic; empty without a critic or if it shares its layers."""
    critic = getattr(module, "critic", None)
    return [] if critic is None else list(critic.parameters())
