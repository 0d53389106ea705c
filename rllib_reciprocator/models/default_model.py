"""RLlib's default PPO models for the batched engine."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import gymnasium
import numpy as np
import torch
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from rllib_reciprocator.models.actor_critic import IS_FIRST, WHOLE_EPISODES
from rllib_reciprocator.models.distributions import Categorical
from rllib_reciprocator.models.policy_inputs import policy_inputs


class DefaultModelModule(TorchRLModule, ValueFunctionAPI):
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

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the input columns in addition to observations."""
        return tuple(policy_input.name for policy_input in self.policy_inputs)

    def get_initial_state(self) -> dict[str, Tensor]:
        """Returns the zero state of the LSTM, by path; empty without LSTM."""
        return _flat(self.model.get_initial_state())

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Computes one step of each row."""
        obs = self._obs(batch)
        if Columns.STATE_IN not in batch:
            return {Columns.ACTION_DIST_INPUTS: self.model._forward({Columns.OBS: obs})[Columns.ACTION_DIST_INPUTS]}
        out = self.model._forward({Columns.OBS: obs[:, None], Columns.STATE_IN: _nested(batch[Columns.STATE_IN])})
        return {
            Columns.ACTION_DIST_INPUTS: out[Columns.ACTION_DIST_INPUTS][:, 0],
            Columns.STATE_OUT: _flat(out[Columns.STATE_OUT]),
        }

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        out = self._over_streams(batch, self.model._forward_train)
        logits = out[Columns.ACTION_DIST_INPUTS]
        embeddings = {Columns.EMBEDDINGS: out[Columns.EMBEDDINGS]} if Columns.EMBEDDINGS in out else {}
        return {Columns.ACTION_DIST_INPUTS: logits.reshape(-1, logits.shape[-1]), **embeddings}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Computes the value of each row, ``[rows]``."""
        if embeddings is not None:
            return self.model.compute_values({}, embeddings).flatten()

        def values(part: dict[str, Any]) -> dict[str, Any]:
            out = self.model._forward_train(part)
            return {**out, Columns.VF_PREDS: self.model.compute_values(part, out[Columns.EMBEDDINGS])}

        return self._over_streams(batch, values)[Columns.VF_PREDS].flatten()

    def _obs(self, batch: dict[str, Any]) -> Tensor:
        """Returns the inputs of RLlib's model: observations with policy inputs."""
        obs = batch[Columns.OBS]
        extras = [policy_input.scaled(batch[policy_input.name]) for policy_input in self.policy_inputs]
        if not self.is_image:
            return torch.cat([obs.flatten(1), *extras], 1) if extras else obs.flatten(1)
        if extras:
            planes = torch.cat(extras, 1)[:, :, None, None].expand(-1, -1, *obs.shape[2:])
            obs = torch.cat([obs, planes], 1)
        return obs.permute(0, 2, 3, 1)

    def _over_streams(
        self, batch: dict[str, Any], forward: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> dict[str, Any]:
        """Runs a forward pass over a training batch.

        With an LSTM and streams of several episodes the pass goes step by step, because RLlib's LSTM cannot reset its
        state within a sequence. Otherwise all steps are computed at once.

        Args:
            batch: The training batch.
            forward: Forward pass of RLlib's model, from its inputs to its outputs.
        """
        obs = self._obs(batch)
        initial_state = self.get_initial_state()
        if not initial_state:
            return forward({Columns.OBS: obs})
        is_first = batch[IS_FIRST]
        obs = obs.unflatten(0, (len(is_first), -1))
        initial_memory = {
            name: value.to(obs.device).expand(len(obs), *value.shape) for name, value in initial_state.items()
        }
        if self.model_config.get(WHOLE_EPISODES, True):
            return forward({Columns.OBS: obs, Columns.STATE_IN: _nested(initial_memory)})
        memory, steps = batch[Columns.STATE_IN], []
        for t in range(obs.shape[1]):
            episode_start = is_first[:, t]
            memory = {
                name: torch.where(episode_start.view(-1, *[1] * (value.dim() - 1)), initial_memory[name], value)
                for name, value in memory.items()
            }
            out = forward({Columns.OBS: obs[:, t : t + 1], Columns.STATE_IN: _nested(memory)})
            memory = _flat(out[Columns.STATE_OUT])
            steps.append(out)
        names = {Columns.ACTION_DIST_INPUTS, Columns.VF_PREDS} & set(steps[0])
        return {name: torch.cat([step[name] for step in steps], 1) for name in names}


def _flat(state: dict[str, Any], path: str = "") -> dict[str, Tensor]:
    """Flattens a nested dict of tensors into one dict with paths as keys."""
    flat: dict[str, Tensor] = {}
    for name, value in state.items():
        flat |= _flat(value, f"{path}{name}/") if isinstance(value, dict) else {f"{path}{name}": value}
    return flat


def _nested(state: dict[str, Tensor]) -> dict[str, Any]:
    """Restores the nested dict that :func:`_flat` flattened."""
    tree: dict[str, Any] = {}
    for path, value in state.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree
