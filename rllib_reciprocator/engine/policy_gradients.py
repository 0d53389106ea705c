"""Learner mixin for policy gradients: one step per iteration on the whole rollout, and steps of a critic."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.annotations import override
from torch import Tensor

from rllib_reciprocator.engine.losses import ACTOR_CRITIC, policy_gradient_loss
from rllib_reciprocator.utils.distributed import masked_mean, sum_over_learners

POLICY, CRITIC = "policy", "critic"


class PolicyGradientLearner(TorchLearner):
    """Learner mixin for modules whose policies are trained by plain gradient steps.

    Gradients are computed for each module alone, without RLlib's joint forward pass and PyTorch's distributed wrappers,
    and are summed over learners here. The gradient of a policy is that of its loss, summed over steps and averaged over
    episodes.

    Attributes:
        step_sizes: By module id, the factor of the gradient of the summed loss in the last step: the learning rate
            divided by the number of episodes, times the scale from gradient clipping.
        clipped_directions: By module id, the unit vector of the last step, one tensor per parameter, if its gradient
            was clipped; else zeros.
    """

    step_sizes: dict[str, float | Tensor]
    clipped_directions: dict[str, list[Tensor]]

    def register_policy_gradient(self, module_id: str, config: Any, loss: str) -> None:
        """Registers SGD for a policy, and Adam for its critic if the loss is that of an actor-critic.

        Args:
            module_id: Id of the module.
            config: Settings of the algorithm for this module.
            loss: Name of its loss.
        """
        module = self.module[module_id].unwrapped()
        critic = critic_parameters(module)
        critic_set = set(critic)
        policy = [param for param in module.parameters() if param not in critic_set]
        self.register_optimizer(
            module_id=module_id,
            optimizer_name=POLICY,
            optimizer=torch.optim.SGD(policy, lr=1.0),
            params=policy,
            lr_or_lr_schedule=config.lr,
        )
        if loss == ACTOR_CRITIC:
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=CRITIC,
                optimizer=torch.optim.Adam(critic),
                params=critic,
                lr_or_lr_schedule=config.critic_lr,
            )

    def policy_parameters(self, module_id: str) -> list[Tensor]:
        """Returns the parameters that a module's policy-gradient steps update."""
        return self.get_optimizer(module_id, POLICY).param_groups[0]["params"]

    def policy_step(
        self, module_id: str, batch: dict[str, Any], config: Any, *, episodes: float, entropy_coeff: Tensor | float
    ) -> dict[str, Tensor]:
        """Takes one gradient step of a policy.

        Args:
            module_id: Id of the module.
            batch: Its rows, with actions and advantages.
            config: Settings of the algorithm for this module.
            episodes: Number of episodes that the rows come from, on this learner.
            entropy_coeff: Weight of the regularizer (``entropy_form``).

        Returns:
            Terms of the loss, by metric name.
        """
        module = self.module[module_id].unwrapped()
        stats: dict[str, Tensor] = {}
        loss = policy_gradient_loss(
            module,
            batch,
            module.forward_train(batch),
            entropy_coeff=entropy_coeff,
            entropy_form=config.entropy_form,
            stats=stats,
        )
        self.step_sizes[module_id] = self._descend(module_id, POLICY, loss, episodes, config.grad_clip)
        return {**stats, self.TOTAL_LOSS_KEY: stats[POLICY_LOSS_KEY]}

    def critic_steps(self, module_id: str, batch: dict[str, Any], config: Any) -> dict[str, Tensor]:
        """Takes ``critic_epochs`` gradient steps of a critic on the value targets of the batch.

        Args:
            module_id: Id of the module.
            batch: Its rows, with value targets.
            config: Settings of the algorithm for this module.

        Returns:
            The value loss before the first step, by metric name.
        """
        module, mask = self.module[module_id].unwrapped(), batch.get(Columns.LOSS_MASK)
        stats: dict[str, Tensor] = {}
        for _ in range(config.critic_epochs):
            squared_error = (module.compute_values(batch) - batch[Postprocessing.VALUE_TARGETS]).square()
            stats.setdefault(VF_LOSS_KEY, masked_mean(squared_error, mask).detach())
            rows = len(squared_error) if mask is None else int(mask.sum())
            total = squared_error.sum() if mask is None else (squared_error * mask).sum()
            self._descend(module_id, CRITIC, total, rows, config.grad_clip)
        return stats

    def _descend(
        self, module_id: str, optimizer_name: str, total: Tensor, count: float, clip: float | None
    ) -> float | Tensor:
        """Takes one optimizer step on the mean loss over all learners.

        Args:
            module_id: Id of the module.
            optimizer_name: Name of the optimizer.
            total: Sum of the loss on this learner.
            count: Number of terms (episodes or rows) in the mean, on this learner.
            clip: Maximum norm of the gradient; None for no clipping.

        Returns:
            Factor of the gradient of ``total``: learning rate divided by the count over all learners, times the scale
            from clipping.
        """
        optimizer = self.get_optimizer(module_id, optimizer_name)
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

    @override(TorchLearner)
    def build(self) -> None:
        """Builds modules and optimizers."""
        self.step_sizes, self.clipped_directions = {}, {}
        super().build()


def critic_parameters(module: Any) -> list[Tensor]:
    """Returns the parameters of a module's separate critic; empty without a critic or if it shares its layers."""
    critic = getattr(module, "critic", None)
    return [] if critic is None else list(critic.parameters())


def averaged_over_learners(gradients: list[Tensor], count: float) -> float:
    """Sums gradients over all learner processes, in place.

    Args:
        gradients: Gradients of a sum over ``count`` terms.
        count: Number of terms on this learner.

    Returns:
        Number of terms on all learners.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return float(count)
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), gradients[0].new_tensor([count])])
    *sums, total_count = sum_over_learners(flat).split([*(gradient.numel() for gradient in gradients), 1])
    for gradient, gradient_sum in zip(gradients, sums, strict=True):
        gradient.copy_(gradient_sum.view_as(gradient))
    return float(total_count)
