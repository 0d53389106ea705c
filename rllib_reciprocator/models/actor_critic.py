"""Actor and critic with separate networks, without or with memory."""

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
from rllib_reciprocator.utils.distributed import mean_of_counted

# Column of a batch: the agent's influence balance towards each other player, [rows, N - 1].
BALANCE = "influence_balance"
# Column of a batch: what the agent has given each other agent so far in the episode, [rows, N - 1].
GIVEN = "incentives_given"
# What the forward pass of a training batch puts out: the balance as predicted, [rows, N - 1], in units of bounded().
PREDICTED_BALANCE = "predicted_balance"
# Column of a training batch of a module with a memory, [streams, T] bool: whether an episode begins with that step. The
# other columns are in rows ``stream * T + t``, and STATE_IN is that before the first step of each stream.
IS_FIRST = "is_first"
# Setting of modules: whether every stream is one whole episode, so that its memory is empty at the start and only then.
WHOLE_EPISODES = "whole_episodes"
# Setting of modules: whether their memory lives through all inner episodes of a meta-episode.
REMEMBERS = "remembers_inner_episodes"
# Setting of modules: whether their policy explores by doing anything at all in some cases (:func:`with_exploration`);
# and what the forward pass of a training batch puts out beside these logits: those without exploration.
EXPLORES, LOGITS = "explores", "logits"
# Setting of modules: all observations that their game has, where these are few.
OBSERVATIONS = "observations"
MEMORY, CRITIC_MEMORY = "memory", "critic_memory"
BALANCE_LOSS = "balance_loss"
OBSERVES, PREDICTS = "observes", "predicts"


def bounded(balance: Tensor, scale: float) -> Tensor:
    """A balance as policies see it, between -1 and 1."""
    return torch.tanh(balance / scale)


def one_hot_lookup(obs: Tensor, observations: Tensor) -> Tensor:
    """Which of a few observations each row is, ``[rows, S]`` bool.

    Args:
        obs: ``[rows, *obs_shape]``.
        observations: ``[S, *obs_shape]``.
    """
    # Number by number: they are few, and to look along a short last axis costs more.
    which = None
    for seen, known in zip(obs.flatten(1).unbind(1), observations.flatten(1).unbind(1), strict=True):
        same = seen[:, None] == known
        which = same if which is None else which & same
    assert which is not None
    return which


class Network(nn.Module):
    """Encoder, memory if there is one, and a linear head."""

    observations: Tensor | None

    def __init__(self, space: gymnasium.spaces.Box, outputs: int, config: Mapping[str, Any]) -> None:
        """Builds the layers.

        Args:
            space: Of observations.
            outputs: Width of what comes out.
            config: Settings of :class:`ActorCriticModule`.
        """
        super().__init__()
        self.num_observed = config.get("num_balances", 0) if config.get("balance_use") == OBSERVES else 0
        self.num_given = config.get("num_given", 0)
        beside = self.num_observed + self.num_given
        few = torch.tensor(config[OBSERVATIONS]) if config.get("one_hot") else None
        self.register_buffer("observations", few, persistent=False)
        shape, classes = (space.shape, num_classes(space)) if few is None else ((len(few),), None)
        filters, hiddens, activation = config["conv_filters"], config["fcnet_hiddens"], config["fcnet_activation"]
        self.encoder: Encoder | ClassEncoder
        if classes is None:
            self.encoder = Encoder(shape, beside, filters, hiddens, activation)
        else:
            embedding = config["embedding_size"]
            self.encoder = ClassEncoder(shape, classes, beside, filters, embedding, hiddens, activation)
        width = self.encoder.width
        self.memory = made_memory(width, config)
        self.width = width if self.memory is None else self.memory.width
        self.head = nn.Linear(self.width, outputs)
        initialize_head(self.head, config)
        self.balance_scale = config.get("balance_scale", 1.0)

    def encode(self, batch: dict[str, Any]) -> Tensor:
        """Features of each row, ``[rows, width]``."""
        beside = [bounded(batch[BALANCE], self.balance_scale)] if self.num_observed else []
        beside += [batch[GIVEN]] if self.num_given else []
        obs = batch[Columns.OBS]
        if self.observations is not None:
            obs = one_hot_lookup(obs, self.observations).to(self.head.weight.dtype)
        return self.encoder(obs, torch.cat(beside, -1) if beside else None)

    def sequences(self, batch: dict[str, Any], memory: Tensor | None) -> Tensor:
        """Features of the rows of a training batch, ``[rows, width]``.

        Args:
            batch: The batch.
            memory: ``[streams, cell]`` before the first step; None if every stream is one whole episode.
        """
        features = self.encode(batch)
        if self.memory is None:
            return features
        features = features.unflatten(0, (len(batch[IS_FIRST]), -1))
        return self.memory.over(features, memory, batch[IS_FIRST]).flatten(0, 1)

    def forward(self, batch: dict[str, Any], memory: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """One step of each row: what the head puts out, ``[rows, outputs]``, and the memory after it if any."""
        features = self.encode(batch)
        if memory is not None:
            features, memory = self.step(features, memory)
        return self.head(features), memory

    def step(self, features: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """One step of each row: features ``[rows, width]`` and memory ``[rows, cell]`` to the same of the next."""
        assert self.memory is not None
        return self.memory.step(features, memory)


def initialize_head(head: nn.Linear, config: Mapping[str, Any]) -> None:
    """Sets a head's weights, and bias, to what ``model_config`` says; to torch's own if it says nothing."""
    for name, parameter in (("kernel", head.weight), ("bias", head.bias)):
        chosen = config.get(f"head_fcnet_{name}_initializer")
        if chosen is not None:
            getattr(nn.init, chosen)(parameter)


class ActorCriticModule(TorchRLModule, ValueFunctionAPI):
    """Two networks on the observation, one for logits and one for the value; or one with two heads.

    Settings in ``model_config``, named as RLlib's where it has them: ``conv_filters`` (output planes of 3x3
    convolutions: circular ones on planes; plain ones, which may be pairs with a stride, on maps of classes, which
    ``embedding_size`` numbers stand for), ``fcnet_hiddens`` (widths), ``fcnet_activation``, ``use_gru`` and
    ``gru_cell_size``, or ``use_lru`` and ``lru_cell_size`` for linear recurrent units (a memory after them),
    ``vf_share_layers`` (one network with two heads), ``head_fcnet_kernel_initializer`` and
    ``head_fcnet_bias_initializer`` (``zeros_`` for policies that begin even, and values of zero), ``one_hot`` (in games
    with a few observations: which of them it is, as a row of one-hot numbers), ``num_balances`` (0, or N - 1 for a
    policy that has to do with its
    influence balance) with ``balance_scale`` and ``balance_use``: it ``observes`` the balance, which joins after the
    convolutions as ``tanh(balance / balance_scale)`` and so is bounded by 1, or it ``predicts`` the same from its own
    features with a loss of weight ``predict_balance_coeff``, so that its memory learns to keep what tells the balance.
    ``num_given`` (0, or N - 1) is for who sees what it has given the others so far; it joins as the balance does.
    With a memory, ``whole_episodes`` says whether streams are whole episodes; if not, the critic's memory is kept while
    acting too. ``explores`` is for a policy that does anything at all in some cases while it acts and learns; learners
    set their share (``epsilon``), and it goes with the weights. Likeliest actions are those of the policy alone.
    """

    # Whether what comes out of a row has nothing to do with the others, so that rows may be left out.
    acts_by_row = True
    epsilon: Tensor | None

    def setup(self) -> None:
        """Builds both networks."""
        config = self.model_config
        self.action_dist_cls = distribution_for(self.action_space)
        self.num_balances = int(config["num_balances"])
        space = self.observation_space
        self.actor = Network(space, self.action_dist_cls.required_input_dim(self.action_space), config)
        shared = config.get("vf_share_layers", False)
        self.critic = None if shared else Network(space, 1, config)
        self.value_head = nn.Linear(self.actor.width, 1) if shared else None
        if self.value_head is not None:
            initialize_head(self.value_head, config)
        predicts = self.num_balances if config["balance_use"] == PREDICTS else 0
        self.balance_head = nn.Linear(self.actor.width, predicts) if predicts else None
        self.plays_whole_episodes = config.get(WHOLE_EPISODES, True)
        memories = (MEMORY,) if shared or self.plays_whole_episodes else (MEMORY, CRITIC_MEMORY)
        self.memories = memories if self.actor.memory is not None else ()
        self.register_buffer("epsilon", torch.zeros(()) if config.get(EXPLORES) else None)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it needs beside observations."""
        return ((BALANCE,) if self.num_balances else ()) + ((GIVEN,) if self.actor.num_given else ())

    def get_initial_state(self) -> dict[str, Tensor]:
        """Empty memories, if there are any."""
        return {name: torch.zeros(self.actor.memory.cell) for name in self.memories if self.actor.memory is not None}

    def train(self, mode: bool = True) -> ActorCriticModule:
        """Notes the mode and leaves the layers alone: none of them acts otherwise in training.

        RLlib switches the mode at every forward pass; walking through the layers each time would take as long as the
        pass itself.
        """
        self.training = mode
        return self

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """One step of each row."""
        features, out = self.actor.encode(batch), {}
        if self.memories:
            memories = batch[Columns.STATE_IN]
            features, memory = self.actor.step(features, memories[MEMORY])
            after = {MEMORY: memory}
            if self.critic is not None and CRITIC_MEMORY in self.memories:
                after[CRITIC_MEMORY] = self.critic.step(self.critic.encode(batch), memories[CRITIC_MEMORY])[1]
            out[Columns.STATE_OUT] = after
        if self.value_head is not None:
            out[Columns.VF_PREDS] = self.value_head(features).squeeze(-1)
        return {Columns.ACTION_DIST_INPUTS: self.actor.head(features), **out}

    def _step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step of each row, of who plays where actions are drawn."""
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
        explored = logits if self.epsilon is None else with_exploration(logits, self.epsilon)
        out = {Columns.ACTION_DIST_INPUTS: explored, LOGITS: logits}
        if self.value_head is not None:
            out[Columns.EMBEDDINGS] = features
        if self.balance_head is not None:
            out[PREDICTED_BALANCE] = self.balance_head(features).tanh()
        return out

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """The value of each row, ``[rows]``."""
        if self.value_head is not None:
            features = embeddings
            if features is None:
                features = self.actor.sequences(batch, self._memory_before(batch, MEMORY))
            return self.value_head(features).squeeze(-1)
        assert self.critic is not None
        features = self.critic.sequences(batch, self._memory_before(batch, CRITIC_MEMORY))
        return self.critic.head(features).squeeze(-1)

    def _memory_before(self, batch: dict[str, Any], name: str) -> Tensor | None:
        """A memory before the first step of each stream; None if there is none, or streams are whole episodes."""
        return batch[Columns.STATE_IN][name] if self.memories and not self.plays_whole_episodes else None

    def auxiliary_losses(self, batch: dict[str, Any], out: dict[str, Tensor]) -> dict[str, tuple[Tensor, float]]:
        """Losses of its own beside that of its algorithm, by name, each with its weight: how far predictions are off.

        Args:
            batch: A training batch.
            out: What :meth:`_forward_train` made of it.
        """
        if PREDICTED_BALANCE not in out:
            return {}
        target = bounded(batch[BALANCE], self.model_config["balance_scale"])
        if Columns.LOSS_MASK not in batch:
            error = functional.mse_loss(out[PREDICTED_BALANCE], target)
        else:
            errors = (out[PREDICTED_BALANCE] - target).square().mean(-1)
            error = mean_of_counted(errors, batch[Columns.LOSS_MASK])
        return {BALANCE_LOSS: (error, self.model_config["predict_balance_coeff"])}
