"""Modules in RLlib's form, in which recurrent modules take ``[B, T, ..]``, as modules of the batched engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from rllib_reciprocator.models.actor_critic import IS_FIRST, WHOLE_EPISODES
from rllib_reciprocator.models.policy_inputs import policy_inputs
from rllib_reciprocator.utils.import_paths import import_attribute

# Settings of :class:`AdaptedModule`: the import path of the module, and its own settings.
MODULE, MODULE_SETTINGS = "module", "module_settings"


class RLlibFormModule(TorchRLModule, ValueFunctionAPI):
    """Base class of modules that wrap a module in RLlib's form, ``model``.

    The batched engine gives modules rows ``[B, ..]`` for one step, and rows of sequences with the first steps of
    episodes for training. Modules in RLlib's form take ``[B, T, ..]`` and know no ends of episodes inside a sequence.
    """

    model: Any

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the input columns in addition to observations."""
        return tuple(policy_input.name for policy_input in policy_inputs(self.model_config))

    def get_initial_state(self) -> dict[str, Tensor]:
        """Returns the initial recurrent state by path; empty without memory."""
        return _flat(self.model.get_initial_state())

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Computes one step of each row."""
        return self._one_step(batch, self.model._forward)

    def _one_step(self, batch: dict[str, Any], forward: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Computes one step of each row with a forward pass of the wrapped module."""
        inputs = self._model_inputs(batch)
        if Columns.STATE_IN not in batch:
            return {Columns.ACTION_DIST_INPUTS: forward(inputs)[Columns.ACTION_DIST_INPUTS]}
        with_time = {name: column[:, None] for name, column in inputs.items()}
        out = forward({**with_time, Columns.STATE_IN: _nested(batch[Columns.STATE_IN])})
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
            return {**out, Columns.VF_PREDS: self.model.compute_values(part, out.get(Columns.EMBEDDINGS))}

        return self._over_streams(batch, values)[Columns.VF_PREDS].flatten()

    def _model_inputs(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Returns the inputs of the wrapped module, ``[rows, ..]`` by column: observations and policy inputs."""
        return {name: batch[name] for name in (Columns.OBS, *self.inputs)}

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
        inputs = self._model_inputs(batch)
        initial_state = self.get_initial_state()
        if not initial_state:
            return forward(inputs)
        is_first = batch[IS_FIRST]
        inputs = {name: column.unflatten(0, (len(is_first), -1)) for name, column in inputs.items()}
        initial_memory = {
            name: value.to(is_first.device).expand(len(is_first), *value.shape) for name, value in initial_state.items()
        }
        if self.model_config.get(WHOLE_EPISODES, True):
            return forward({**inputs, Columns.STATE_IN: _nested(initial_memory)})
        memory, steps = batch[Columns.STATE_IN], []
        for t in range(is_first.shape[1]):
            episode_start = is_first[:, t]
            memory = {
                name: torch.where(episode_start.view(-1, *[1] * (value.dim() - 1)), initial_memory[name], value)
                for name, value in memory.items()
            }
            step_inputs = {name: column[:, t : t + 1] for name, column in inputs.items()}
            out = forward({**step_inputs, Columns.STATE_IN: _nested(memory)})
            memory = _flat(out[Columns.STATE_OUT])
            steps.append(out)
        names = {Columns.ACTION_DIST_INPUTS, Columns.VF_PREDS} & set(steps[0])
        return {name: torch.cat([step[name] for step in steps], 1) for name in names}


class AdaptedModule(RLlibFormModule):
    """Recurrent module of a user in RLlib's form.

    Settings in ``model_config``: ``module``, the import path of its class; ``module_settings``, its own settings;
    ``whole_episodes`` and ``policy_inputs`` as in :class:`ActorCriticModule`. The user's module receives policy inputs
    as columns of its batch, ``[B, T, K]`` by name.
    """

    def setup(self) -> None:
        """Builds the user's module."""
        module_class = import_attribute(self.model_config[MODULE])
        self.model = module_class(
            observation_space=self.observation_space,
            action_space=self.action_space,
            model_config=self.model_config[MODULE_SETTINGS],
            inference_only=False,
        )
        self.action_dist_cls = self.model.get_train_action_dist_cls()

    def get_initial_state(self) -> dict[str, Tensor]:
        """Returns the initial recurrent state by path. The user's module may return NumPy arrays."""
        return {name: torch.as_tensor(value) for name, value in super().get_initial_state().items()}

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return self._one_step(batch, self.model.forward_inference)

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return self._one_step(batch, self.model.forward_exploration)


@torch.no_grad()
def takes_rllib_form(module: RLModule) -> bool:
    """Returns True if a recurrent module takes observations ``[B, T, ..]``, as RLlib's env runners provide them.

    Args:
        module: The module. It is called once in each form, with observations of zero.

    Raises:
        ValueError: If it fails in both forms, with the error of the form without time axis.
    """
    state = module.get_initial_state()
    if not state:
        return False
    states = {name: torch.as_tensor(value)[None].expand(2, *value.shape) for name, value in _flat(state).items()}
    obs = torch.zeros(2, *module.observation_space.shape)
    rows_error: Exception | None = None
    try:
        out = module.forward_inference({Columns.OBS: obs, Columns.STATE_IN: states})
        if _leading_shape(out) == (2,):
            return False
    except Exception as error:  # custom modules may raise any error
        rows_error = error
    try:
        out = module.forward_inference({Columns.OBS: obs[:, None], Columns.STATE_IN: _nested(states)})
        if _leading_shape(out) == (2, 1):
            return True
    except Exception as error:
        raise ValueError(f"it fails on two rows ({rows_error or error})") from None
    raise ValueError(f"it returns neither [B, ..] nor [B, T, ..] ({rows_error})")


def _leading_shape(out: dict[str, Any]) -> tuple[int, ...]:
    """Returns the axes of a module's outputs before that of the action distribution."""
    if Columns.ACTION_DIST_INPUTS in out:
        return tuple(out[Columns.ACTION_DIST_INPUTS].shape[:-1])
    return tuple(out[Columns.ACTIONS].shape)


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
