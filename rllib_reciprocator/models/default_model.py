"""RLlib's default PPO models for the batched engine."""

from __future__ import annotations

from math import prod
from typing import Any

import gymnasium
import numpy as np
import torch
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_reciprocator.models.distributions import Categorical
from rllib_reciprocator.models.policy_inputs import policy_inputs
from rllib_reciprocator.models.rllib_form import RLlibFormModule


class DefaultModelModule(RLlibFormModule):
    """Policy and value model built by RLlib's catalog: MLP, CNN or LSTM.

    Settings in ``model_config``: ``rllib``, the fields of RLlib's ``DefaultModelConfig``;
    ``policy_inputs`` (observed ones only) and ``whole_episodes`` as in :class:`ActorCriticModule`. With
    ``conv_filters``, planes ``[planes, height, width]`` are transposed to the image ``[height, width, planes]`` of
    RLlib's convolutions, and each value of a policy input is added as a constant plane. Without, inputs are flattened
    and concatenated.
    """

    def setup(self) -> None:
        """Builds RLlib's model for observations with policy inputs."""
        config = self.model_config
        self.action_dist_cls = Categorical
        self.policy_inputs = policy_inputs(config)
        shape, extra = self.observation_space.shape, sum(policy_input.size for policy_input in self.policy_inputs)
        self.is_image = bool(config["rllib"]["conv_filters"])
        input_shape = (*shape[1:], shape[0] + extra) if self.is_image else (prod(shape) + extra,)
        self.model = DefaultPPOTorchRLModule(
            observation_space=gymnasium.spaces.Box(-np.inf, np.inf, input_shape, np.float32),
            action_space=self.action_space,
            model_config=config["rllib"],
            inference_only=False,
        )

    def _model_inputs(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {Columns.OBS: self._observations(batch)}

    def _observations(self, batch: dict[str, Any]) -> Tensor:
        """Returns the observations of RLlib's model: those of the agent with policy inputs."""
        obs = batch[Columns.OBS]
        extras = [policy_input.scaled(batch[policy_input.name]) for policy_input in self.policy_inputs]
        if not self.is_image:
            return torch.cat([obs.flatten(1), *extras], 1) if extras else obs.flatten(1)
        if extras:
            planes = torch.cat(extras, 1)[:, :, None, None].expand(-1, -1, *obs.shape[2:])
            obs = torch.cat([obs, planes], 1)
        return obs.permute(0, 2, 3, 1)
