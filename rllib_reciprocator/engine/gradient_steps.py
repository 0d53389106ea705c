"""Gradient steps of a learner through the hooks of RLlib."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.annotations import override
from torch import Tensor

from rllib_reciprocator.utils.fixed_modules import FixedModulesLearner


class MinibatchLearner(FixedModulesLearner, PPOTorchLearner):
    """Learner that takes gradient steps on minibatches of some modules, in RLlib's order of calls.

    Attributes:
        clips_gradients: If True, gradients are clipped.
    """

    clips_gradients: bool = False

    def update_minibatch(self, batch: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
        """Takes one gradient step on a minibatch and returns the losses.

        Args:
            batch: Rows by module id and column.
        """
        _, losses, _ = self._update(batch)
        return losses

    @override(TorchLearner)
    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> Any:
        """Performs one gradient step."""
        out = self.module.forward_train(batch)
        losses = self.compute_losses(fwd_out=out, batch=batch)
        gradients = self.compute_gradients(losses)
        if self.clips_gradients or self.config.log_gradients:
            gradients = self.postprocess_gradients(gradients)
        self.apply_gradients(gradients)
        return out, losses, {}

    @override(TorchLearner)
    def compute_gradients(self, loss_per_module: dict[str, Tensor], **kwargs: Any) -> dict[Any, Tensor]:
        """Returns the gradients of the updated modules only, since rules update modules separately."""
        gradients = super().compute_gradients(loss_per_module, **kwargs)
        return {name: gradient for name, gradient in gradients.items() if gradient is not None}

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
