"""What learns by policy gradients: one step an iteration on all that was sampled, and steps of a critic."""

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
    """Mixed into a learner class of RLlib's: modules whose policies take plain gradient steps.

    Gradients are taken of the modules themselves, without RLlib's forward passes of all at once and PyTorch's wrappers
    around them, and summed over learners here. A policy's gradient is that of its loss summed over steps and averaged
    over episodes.

    Attributes:
        step_sizes: By module the factor of the summed loss's gradient in the last step: learning rate over episodes,
            with clipping.
        clipped_directions: By module the unit vector of the last step, a tensor a parameter, where its gradient was
            clipped; zeros where it was not.
    """

    step_sizes: dict[str, float | Tensor]
    clipped_directions: dict[str, list[Tensor]]

    def register_policy_gradient(self, module_id: str, config: Any, loss: str) -> None:
        """Registers stochastic gradient descent for a policy, and Adam for its critic if it has one that learns.

        Args:
            module_id: The module.
            config: Settings of the algorithm, as they are for it.
            loss: By which it learns.
        """
        module = self.module[module_id].unwrapped()
        critic = critic_parameters(module)
        of_critic = set(critic)
        policy = [each for each in module.parameters() if each not in of_critic]
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
        """The parameters of a module that its policy's gradient steps change."""
        return self.get_optimizer(module_id, POLICY).param_groups[0]["params"]

    def policy_step(
        self, module_id: str, batch: dict[str, Any], config: Any, *, episodes: float, entropy_coeff: Tensor | float
    ) -> dict[str, Tensor]:
        """Takes one gradient step of a policy.

        Args:
            module_id: The module.
            batch: Its rows, with actions and advantages.
            config: Settings of the algorithm, as they are for it.
            episodes: How many the rows are of, on this learner.
            entropy_coeff: Weight of what keeps the policy from being sure.

        Returns:
            The parts of the loss, by name.
        """
        module = self.module[module_id].unwrapped()
        told: dict[str, Tensor] = {}
        loss = policy_gradient_loss(
            module,
            batch,
            module.forward_train(batch),
            entropy_coeff=entropy_coeff,
            entropy_form=config.entropy_form,
            told=told,
        )
        self.step_sizes[module_id] = self._descend(module_id, POLICY, loss, episodes, config.grad_clip)
        return {**told, self.TOTAL_LOSS_KEY: told[POLICY_LOSS_KEY]}

    def critic_steps(self, module_id: str, batch: dict[str, Any], config: Any) -> dict[str, Tensor]:
        """Takes gradient steps of a critic towards the batch's value targets.

        Args:
            module_id: The module.
            batch: Its rows, with value targets.
            config: Settings of the algorithm, as they are for it.

        Returns:
            The loss before the first, by name.
        """
        module, mask = self.module[module_id].unwrapped(), batch.get(Columns.LOSS_MASK)
        told: dict[str, Tensor] = {}
        for _ in range(config.critic_epochs):
            missed = (module.compute_values(batch) - batch[Postprocessing.VALUE_TARGETS]).square()
            told.setdefault(VF_LOSS_KEY, masked_mean(missed, mask).detach())
            rows = len(missed) if mask is None else int(mask.sum())
            total = missed.sum() if mask is None else (missed * mask).sum()
            self._descend(module_id, CRITIC, total, rows, config.grad_clip)
        return told

    def _descend(
        self, module_id: str, optimizer_name: str, total: Tensor, count: float, clip: float | None
    ) -> float | Tensor:
        """One step of an optimizer down the mean, over all learners, of a loss that was summed over ``count``.

        Returns:
            The learning rate over the count, with clipping.
        """
        optimizer = self.get_optimizer(module_id, optimizer_name)
        (group,) = optimizer.param_groups
        found = torch.autograd.grad(total, group["params"], allow_unused=True)
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(group["params"], found, strict=True)]
        size = 1.0 / max(1.0, averaged_over_learners(gradients, count))
        if clip is not None:
            norm = torch.stack(torch._foreach_norm(gradients)).norm() * size
            scale = (clip / norm.clamp(min=1e-12)).clamp(max=1.0)
            if optimizer_name == POLICY:
                # Kept without asking the device whether the gradient was clipped.
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
    """The parameters of a module that are its critic's alone; none where it has no critic, or shares its layers."""
    critic = getattr(module, "critic", None)
    return [] if critic is None else list(critic.parameters())


def averaged_over_learners(gradients: list[Tensor], count: float) -> float:
    """Sums gradients over all learner processes, in place.

    Args:
        gradients: Of sums over ``count`` things.
        count: How many there are on this learner.

    Returns:
        How many there are on all.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return float(count)
    flat = torch.cat([*(each.flatten() for each in gradients), gradients[0].new_tensor([count])])
    *parts, counts = sum_over_learners(flat).split([*(each.numel() for each in gradients), 1])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return float(counts)
