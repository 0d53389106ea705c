"""Learner mixin that skips modules without trainable parameters, e.g. scripted policies."""

from __future__ import annotations

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.annotations import override

from rllib_reciprocator.utils.exact_restore import ExactRestoreLearner


def has_parameters(module: torch.nn.Module) -> bool:
    """Returns True if a module has parameters."""
    return next(module.parameters(), None) is not None


class FixedModulesLearner(ExactRestoreLearner):
    """Learner mixin that skips modules without parameters, e.g. scripted policies."""

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: AlgorithmConfig | None = None) -> None:
        """Configures the optimizers of modules that have parameters; PyTorch refuses optimizers without parameters."""
        if has_parameters(self.module[module_id]):
            super().configure_optimizers_for_module(module_id, config)

    @override(TorchLearner)
    def _make_modules_ddp_if_necessary(self) -> None:
        """Wraps modules that have parameters for distributed training; PyTorch refuses to wrap the others."""
        fixed_modules = {key: module for key, module in self.module.items() if not has_parameters(module)}
        for module_id in fixed_modules:
            self.module.remove_module(module_id)
        super()._make_modules_ddp_if_necessary()
        for module_id, module in fixed_modules.items():
            self.module.add_module(module_id, module)
