"""Actor-critic modules, with or without memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn
from torch.nn import functional

from rllib_reciprocator.models.class_encoder import ClassEncoder, num_classes
from rllib_reciprocator.models.distributions import distribution_for, with_exploration
from rllib_reciprocator.models.encoder import Encoder
from rllib_reciprocator.models.memory import made_memory
from rllib_reciprocator.models.policy_inputs import policy_inputs
from rllib_reciprocator.utils.distributed import mean_of_counted

# Output of the forward pass on a training batch: the predicted policy inputs, [rows, total size].
PREDICTIONS = "predictions"
# Column of a training batch of a module with memory, [streams, T] bool: true at the first step of an episode. A stream
# is T consecutive steps of one agent in one environment. The other columns have rows ``stream * T + t``, and STATE_IN
# is the memory before the first step of each stream.
IS_FIRST = "is_first"
# Setting of modules. If True, every stream is one whole episode, so that memory is only reset at the start of streams.
WHOLE_EPISODES = "whole_episodes"
# Setting of modules. If True, memory is kept over all inner episodes of a meta-episode.
REMEMBERS = "remembers_inner_episodes"
# EXPLORES is a setting of modules: if True, the policy uses epsilon exploration (:func:`with_exploration`). LOGITS is
# an output of the forward pass on a training batch: the logits without exploration.
EXPLORES, LOGITS = "explores", "logits"
# Setting of modules: all possible observations, if there are only a few.
OBSERVATIONS = "observations"
MEMORY, CRITIC_MEMORY = "memory", "critic_memory"


def one_hot_lookup(obs: Tensor, observations: Tensor) -> Tensor:
    """Looks up each row in a table of observations, ``[rows, S]`` bool, true at the index of the observation.

    Args:
        obs: ``[rows, *obs_shape]``.
        observations: ``[S, *obs_shape]``, all possible observations.
    """
    # Loops over elements: there are few, and reducing over a short last axis is slower.
    matches = None
    for elements, table_elements in zip(obs.flatten(1).unbind(1), observations.flatten(1).unbind(1), strict=True):
        is_equal = elements[:, None] == table_elements
        matches = is_equal if matches is None else matches & is_equal
    assert matches is not None
    return matches


class Network(nn.Module):
    """Network with an encoder, an optional memory and a linear head."""

    observations: Tensor | None

    def __init__(self, space: gymnasium.spaces.Box, outputs: int, config: Mapping[str, Any]) -> None:
        """Builds the layers.

        Args:
            space: Observation space.
            outputs: Number of outputs of the head.
            config: ``model_config`` of :class:`ActorCriticModule`.
        """
        super().__init__()
        self.inputs = [policy_input for policy_input in policy_inputs(config) if not policy_input.predicted]
        num_extra = sum(policy_input.size for policy_input in self.inputs)
        table = torch.tensor(config[OBSERVATIONS]) if config.get("one_hot") else None
        self.register_buffer("observations", table, persistent=False)
        shape, classes = (space.shape, num_classes(space)) if table is None else ((len(table),), None)
        filters, hiddens, activation = config["conv_filters"], config["fcnet_hiddens"], config["fcnet_activation"]
        self.encoder: Encoder | ClassEncoder
        if classes is None:
            self.encoder = Encoder(shape, num_extra, filters, hiddens, activation)
        else:
            embedding = config["embedding_size"]
            self.encoder = ClassEncoder(shape, classes, num_extra, filters, embedding, hiddens, activation)
        width = self.encoder.width
        self.memory = made_memory(width, config)
        self.width = width if self.memory is None else self.memory.width
        self.head = nn.Linear(self.width, outputs)
        initialize_head(self.head, config)

    def encode(self, batch: dict[str, Any]) -> Tensor:
        """Computes the features of each row, ``[rows, width]``."""
        extras = [policy_input.scaled(batch[policy_input.name]) for policy_input in self.inputs]
        obs = batch[Columns.OBS]
        if self.observations is not None:
            obs = one_hot_lookup(obs, self.observations).to(self.head.weight.dtype)
        return self.encoder(obs, torch.cat(extras, -1) if extras else None)

    def sequences(self, batch: dict[str, Any], memory: Tensor | None) -> Tensor:
        """Computes the features of the rows of a training batch, after the memory, ``[rows, width]``.

        Args:
            batch: The batch.
            memory: ``[streams, cell]``, memory before the first step; None if every stream is one whole episode.
        """
        features = self.encode(batch)
        if self.memory is None:
            return features
        features = features.unflatten(0, (len(batch[IS_FIRST]), -1))
        return self.memory.over(features, memory, batch[IS_FIRST]).flatten(0, 1)

    def forward(self, batch: dict[str, Any], memory: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Computes one step of each row: outputs of the head, ``[rows, outputs]``, and the next memory or None."""
        features = self.encode(batch)
        if memory is not None:
            features, memory = self.step(features, memory)
        return self.head(features), memory

    def step(self, features: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Updates the memory by one step: features ``[rows, width]`` and memory ``[rows, cell]`` to new ones."""
        assert self.memory is not None
        return self.memory.step(features, memory)


def initialize_head(head: nn.Linear, config: Mapping[str, Any]) -> None:
    """Initializes a head with the initializers in ``model_config``. Keeps PyTorch's defaults where there are none."""
    for name, parameter in (("kernel", head.weight), ("bias", head.bias)):
        initializer = config.get(f"head_fcnet_{name}_initializer")
        if initializer is not None:
            getattr(nn.init, initializer)(parameter)


class ActorCriticModule(TorchRLModule, ValueFunctionAPI):
    """Actor-critic with separate networks for logits and value, or with one network and two heads.

    Settings in ``model_config``, named as in RLlib where RLlib has them: ``conv_filters`` (output channels of 3x3
    convolutions, which are circular for observations of planes; for maps of classes they are zero-padded, may be pairs
    of output channels and stride, and act on embeddings of size ``embedding_size``), ``fcnet_hiddens`` (layer widths),
    ``fcnet_activation``, ``use_gru`` and ``gru_cell_size``, or ``use_lru`` and ``lru_cell_size`` for linear recurrent
    units (a memory after these layers), ``vf_share_layers`` (one network with two heads),
    ``head_fcnet_kernel_initializer`` and ``head_fcnet_bias_initializer`` (``zeros_`` for uniform initial policies and
    values of zero), ``one_hot`` (one-hot encoding of the observation's index, in environments with a few possible
    observations) and ``policy_inputs`` (:mod:`rllib_reciprocator.models.policy_inputs`): observed ones are concatenated
    after the convolutions; others are predicted from the features, with a loss, so that the memory learns to represent
    them. ``whole_episodes``, for modules with memory: if True, every stream is one
    whole episode; if False, env runners also keep the critic's memory. ``explores`` enables epsilon exploration in
    sampling and training; learners set its probability ``epsilon``, which is synchronized with the weights. Greedy
    actions are those of the policy without exploration.
    """

    # If True, the output of a row does not depend on other rows, so that rows may be left out.
    acts_by_row = True
    # Names of settings that the module stores in buffers, as constants or as schedules over environment steps.
    scheduled_settings: tuple[str, ...] = ("epsilon",)
    epsilon: Tensor | None

    def setup(self) -> None:
        """Builds the networks."""
        config = self.model_config
        self.action_dist_cls = distribution_for(self.action_space)
        self.policy_inputs = policy_inputs(config)
        space = self.observation_space
        self.actor = Network(space, self.action_dist_cls.required_input_dim(self.action_space), config)
        shares_layers = config.get("vf_share_layers", False)
        self.critic = None if shares_layers else Network(space, 1, config)
        self.value_head = nn.Linear(self.actor.width, 1) if shares_layers else None
        if self.value_head is not None:
            initialize_head(self.value_head, config)
        self.predicted = [policy_input for policy_input in self.policy_inputs if policy_input.predicted]
        num_predictions = sum(policy_input.size for policy_input in self.predicted)
        # The head has this name in checkpoints of all versions.
        self.balance_head = nn.Linear(self.actor.width, num_predictions) if num_predictions else None
        self.plays_whole_episodes = config.get(WHOLE_EPISODES, True)
        memories = (MEMORY,) if shares_layers or self.plays_whole_episodes else (MEMORY, CRITIC_MEMORY)
        self.memories = memories if self.actor.memory is not None else ()
        self.register_buffer("epsilon", torch.zeros(()) if config.get(EXPLORES) else None)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the input columns in addition to observations."""
        return tuple(policy_input.name for policy_input in self.policy_inputs)

    def get_initial_state(self) -> dict[str, Tensor]:
        """Returns zeros for each memory; empty without memory."""
        return {name: torch.zeros(self.actor.memory.cell) for name in self.memories if self.actor.memory is not None}

    def train(self, mode: bool = True) -> ActorCriticModule:
        """Sets the mode of this module only, because no layer behaves differently in training.

        RLlib switches the mode at every forward pass. Visiting all layers each time would take as long as the pass.
        """
        self.training = mode
        return self

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Computes one step of each row."""
        features, out = self.actor.encode(batch), {}
        if self.memories:
            memories = batch[Columns.STATE_IN]
            features, memory = self.actor.step(features, memories[MEMORY])
            state_out = {MEMORY: memory}
            if self.critic is not None and CRITIC_MEMORY in self.memories:
                state_out[CRITIC_MEMORY] = self.critic.step(self.critic.encode(batch), memories[CRITIC_MEMORY])[1]
            out[Columns.STATE_OUT] = state_out
        if self.value_head is not None:
            out[Columns.VF_PREDS] = self.value_head(features).squeeze(-1)
        return {Columns.ACTION_DIST_INPUTS: self.actor.head(features), **out}

    def _step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Computes one step of each row for sampling actions. Subclasses may use perturbed parameters."""
        return self._forward(batch)

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        with torch.no_grad():
            out = self._step(batch)
            if self.epsilon is not None:
                out[Columns.ACTION_DIST_INPUTS] = with_exploration(out[Columns.ACTION_DIST_INPUTS], self.epsilon)
            return out

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        features = self.actor.sequences(batch, self._memory_before(batch, MEMORY))
        logits = self.actor.head(features)
        exploration_logits = logits if self.epsilon is None else with_exploration(logits, self.epsilon)
        out = {Columns.ACTION_DIST_INPUTS: exploration_logits, LOGITS: logits}
        if self.value_head is not None:
            out[Columns.EMBEDDINGS] = features
        if self.balance_head is not None:
            out[PREDICTIONS] = self.balance_head(features).tanh()
        return out

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Computes the value of each row, ``[rows]``."""
        if self.value_head is not None:
            features = embeddings
            if features is None:
                features = self.actor.sequences(batch, self._memory_before(batch, MEMORY))
            return self.value_head(features).squeeze(-1)
        assert self.critic is not None
        features = self.critic.sequences(batch, self._memory_before(batch, CRITIC_MEMORY))
        return self.critic.head(features).squeeze(-1)

    def _memory_before(self, batch: dict[str, Any], name: str) -> Tensor | None:
        """Returns a memory before the first step of streams; None without memory or if streams are whole episodes."""
        return batch[Columns.STATE_IN][name] if self.memories and not self.plays_whole_episodes else None

    def auxiliary_losses(self, batch: dict[str, Any], out: dict[str, Tensor]) -> dict[str, tuple[Tensor, float]]:
        """Returns the losses in addition to that of the algorithm, by name, each with its weight.

        Args:
            batch: A training batch.
            out: Outputs of :meth:`_forward_train`.

        Returns:
            The mean squared error of each predicted policy input.
        """
        if PREDICTIONS not in out:
            return {}
        losses, start = {}, 0
        for policy_input in self.predicted:
            predictions = out[PREDICTIONS][:, start : start + policy_input.size]
            targets = policy_input.scaled(batch[policy_input.name])
            if Columns.LOSS_MASK not in batch:
                error = functional.mse_loss(predictions, targets)
            else:
                error = mean_of_counted((predictions - targets).square().mean(-1), batch[Columns.LOSS_MASK])
            losses[policy_input.loss_name or f"{policy_input.name}_loss"] = (error, policy_input.loss_coeff)
            start += policy_input.size
        return losses
