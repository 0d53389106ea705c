"""Copies the weights of a learner to an env runner in the same process, without serialization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner import Learner
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule


class WeightCopier:
    """Copies parameters and buffers of all modules; collects them once, as copying is frequent."""

    def __init__(self, module: MultiRLModule, learner: Learner) -> None:
        """Collects the parameters and buffers.

        Args:
            module: Modules of the env runner.
            learner: Learner in the same process.
        """
        self.module, self.learner = module, learner
        self._targets: list[Tensor] = []
        self._sources: list[Tensor] = []
        # Buffers as (module here, module of the learner, name).
        self._buffers: list[tuple[Any, Any, str]] = []
        for module_id, target in module.items():
            if not _keeps_more_than_weights(target):
                source = learner.module[module_id].unwrapped()
                self._targets.extend(target.parameters())
                self._sources.extend(source.parameters())
                buffers = set(target.state_dict()) - {name for name, _ in target.named_parameters()}
                self._buffers += [(target, source, name) for name in sorted(buffers)]

    @torch.no_grad()
    def copy(self) -> None:
        """Copies the current weights."""
        for module_id, target in self.module.items():
            if _keeps_more_than_weights(target):
                target.set_state(self.learner.module[module_id].unwrapped().get_state())
        if self._targets:
            torch._foreach_copy_(self._targets, self._sources)
        # Buffers are looked up by name each time, as modules may replace their tensors.
        for target, source, name in self._buffers:
            target.get_buffer(name).copy_(source.get_buffer(name))


def _keeps_more_than_weights(module: Any) -> bool:
    """Returns True if a module's class overrides ``get_state``, so that copying tensors is not enough."""
    return type(module).get_state is not TorchRLModule.get_state
