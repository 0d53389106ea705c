"""Learners beside whose players there are modules with nothing to learn, as scripted players."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.annotations import override

from rllib_reciprocator.utils.exact_restore import ExactRestoreLearner


def has_parameters(module: torch.nn.Module) -> bool:
    """Whether there is anything in a module that a gradient could change."""
    return next(module.parameters(), None) is not None


class FixedModulesLearner(ExactRestoreLearner):
    """Mixed into a learner class of RLlib's: some modules, as scripted players, have nothing that could be learned."""

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """An optimizer for every module that has parameters; PyTorch refuses one without."""
        if has_parameters(self.module[module_id]):
            super().configure_optimizers_for_module(module_id, config)

    @override(TorchLearner)
    def _make_modules_ddp_if_necessary(self) -> None:
        """Wraps the modules that have parameters for distributed training; PyTorch refuses the others."""
        fixed = {key: module for key, module in self.module.items() if not has_parameters(module)}
        for module_id in fixed:
            self.module.remove_module(module_id)
        super()._make_modules_ddp_if_necessary()
        for module_id, module in fixed.items():
            self.module.add_module(module_id, module)
