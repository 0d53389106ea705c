"""RLlib's default PPO and APPO models for observations with an action mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from ray.rllib.algorithms.appo.torch.default_appo_torch_rl_module import DefaultAPPOTorchRLModule
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.target_network_api import TARGET_NETWORK_ACTION_DIST_INPUTS
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from rllib_reciprocator.models.action_masks import MASK_START, masked


class ActionMasking(TorchRLModule):
    """Mixin for RLlib's default models that masks illegal actions.

    Observations are flattened and include the mask, which is not an input of the networks. ``model_config`` has
    ``mask_start`` in addition to RLlib's settings.
    """

    def __init__(
        self, *, observation_space: spaces.Box, action_space: spaces.Discrete, model_config: Any, **kwargs: Any
    ) -> None:
        """Builds RLlib's model for observations without the mask."""
        settings = dict(model_config)
        start, num_actions = int(settings.pop(MASK_START)), int(action_space.n)
        width = observation_space.shape[0]
        unmasked_space = spaces.Box(-np.inf, np.inf, (width - num_actions,), np.float32)
        super().__init__(observation_space=unmasked_space, action_space=action_space, model_config=settings, **kwargs)
        self.observation_space = observation_space
        self.model_config = {**settings, MASK_START: start}
        self._start, self._num_actions = start, num_actions

    def get_ctor_args_and_kwargs(self) -> tuple[tuple, dict[str, Any]]:
        """Returns the constructor arguments of this module, with the mask in space and settings."""
        args, kwargs = super().get_ctor_args_and_kwargs()
        overrides = {"observation_space": self.observation_space, "model_config": self.model_config}
        return args, {**kwargs, **overrides}

    def _seen(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns the batch with observations without the mask."""
        obs = batch[Columns.OBS]
        features = torch.cat([obs[..., : self._start], obs[..., self._start + self._num_actions :]], -1)
        return {**batch, Columns.OBS: features}

    def _masked(self, out: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """Masks the logits in the outputs of a forward pass."""
        logits = {
            name: masked(out[name], batch[Columns.OBS], self._start, self._num_actions)
            for name in (Columns.ACTION_DIST_INPUTS, TARGET_NETWORK_ACTION_DIST_INPUTS)
            if name in out
        }
        return {**out, **logits}

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return self._masked(super()._forward(self._seen(batch), **kwargs), batch)

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return self._masked(super()._forward_train(self._seen(batch), **kwargs), batch)

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Computes the outputs of APPO's target networks."""
        return self._masked(super().forward_target(self._seen(batch)), batch)

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Computes the value of each row."""
        return super().compute_values(self._seen(batch), embeddings)


class MaskedPPOModule(ActionMasking, DefaultPPOTorchRLModule):
    """RLlib's default model of PPO and IMPALA with action masking."""


class MaskedAPPOModule(ActionMasking, DefaultAPPOTorchRLModule):
    """RLlib's default model of APPO with action masking."""
