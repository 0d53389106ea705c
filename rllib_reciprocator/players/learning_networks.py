"""Tables and networks of many online learners, computed as one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from rllib_reciprocator.models.actor_critic import Network, one_hot_lookup
from rllib_reciprocator.models.stacked import compute_side_by_side

Parameters = dict[str, Tensor]


class Tables:
    """Tables of all groups: logits, and with a critic a value, for each of a few observations."""

    def __init__(self, observations: Tensor, outputs: int, *, critic: bool, initial_std: float) -> None:
        """Stores the settings; :meth:`begin` creates the tables.

        Args:
            observations: All observations of the environment, ``[S, *obs_shape]``.
            outputs: Number of logits per observation.
            critic: If True, the tables also have a value per observation.
            initial_std: Standard deviation of the initial logits.
        """
        self.observations, self.outputs, self.critic, self.initial_std = observations, outputs, critic, initial_std

    def begin(self, groups: int, generator: torch.Generator) -> Parameters:
        """Creates the tables of the given number of groups."""
        self.observations = self.observations.to(generator.device)
        size, device = (groups, len(self.observations)), generator.device
        noise = torch.randn(*size, self.outputs, generator=generator, device=device)
        values = {"values": torch.zeros(*size, 1, device=device)} if self.critic else {}
        return {"logits": self.initial_std * noise, **values}

    def __call__(self, parameters: Parameters, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Computes logits and values.

        Args:
            parameters: Stacked parameters of all groups.
            obs: ``[groups, rows, *obs_shape]``.

        Returns:
            Logits ``[groups, rows, outputs]`` and values ``[groups, rows]``; values are zero without a critic.
        """
        one_hot = self._which(parameters, obs)
        values = one_hot @ parameters["values"] if self.critic else one_hot.new_zeros(*one_hot.shape[:2], 1)
        return one_hot @ parameters["logits"], values[..., 0]

    def logits(self, parameters: Parameters, obs: Tensor) -> Tensor:
        """Computes the logits only, ``[groups, rows, outputs]``."""
        return self._which(parameters, obs) @ parameters["logits"]

    def _which(self, parameters: Parameters, obs: Tensor) -> Tensor:
        """Returns the index of each row's observation as a one-hot vector, ``[groups, rows, S]``."""
        one_hot = one_hot_lookup(obs.flatten(0, 1), self.observations)
        return one_hot.to(parameters["logits"].dtype).unflatten(0, obs.shape[:2])


class Networks:
    """Networks of all groups, of the same architecture as trained policies, computed as one batch by ``torch.func``."""

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        """Builds the networks of one group as a template.

        Args:
            build: Builds the networks of a group, a module with the forward pass of :class:`ActorCritic`.
        """
        self.build = build
        # Provides the architecture; ``functional_call`` replaces its parameters by those of a group.
        self.template = build()
        compute_side_by_side(self.template)

    def begin(self, groups: int, generator: torch.Generator) -> Parameters:
        """Creates the parameters of the given number of groups."""
        device = generator.device
        self.template.to(device)
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
        # Layers draw their initial weights from the global generator, which is restored afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parameters, _ = stack_module_state([self.build() for _ in range(groups)])
        return {name: tensor.detach().to(device) for name, tensor in parameters.items()}

    def __call__(self, parameters: Parameters, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Computes logits and values.

        Args:
            parameters: Stacked parameters of all groups.
            obs: ``[groups, rows, *obs_shape]``.

        Returns:
            Logits ``[groups, rows, outputs]`` and values ``[groups, rows]``; values are zero without a critic.
        """
        return self._side_by_side(parameters, obs, of="logits_and_values")

    def logits(self, parameters: Parameters, obs: Tensor) -> Tensor:
        """Computes the logits only, ``[groups, rows, outputs]``."""
        return self._side_by_side(parameters, obs, of="logits")

    def _side_by_side(self, parameters: Parameters, obs: Tensor, of: str) -> Any:
        def forward_group(own: Parameters, rows: Tensor) -> Any:
            return functional_call(self.template, own, (rows, of))

        return vmap(forward_group)(parameters, obs)


class ActorCritic(nn.Module):
    """Actor network and, optionally, critic network of one group."""

    def __init__(self, space: Any, outputs: int, settings: Mapping[str, Any], *, critic: bool) -> None:
        """Builds the networks.

        Args:
            space: Observation space.
            outputs: Number of logits.
            settings: Settings of the networks, as in ``model_config``.
            critic: If True, also builds a critic.
        """
        super().__init__()
        self.actor = Network(space, outputs, settings)
        self.critic = Network(space, 1, settings) if critic else None

    def forward(self, obs: Tensor, of: str) -> Any:
        """Computes logits, or logits and values.

        Args:
            obs: ``[rows, *obs_shape]``.
            of: Outputs to compute, ``logits`` or ``logits_and_values``.

        Returns:
            Logits ``[rows, outputs]``, with values ``[rows]`` if requested; values are zero without a critic.
        """
        batch = {Columns.OBS: obs}
        logits, _ = self.actor(batch)
        if of == "logits":
            return logits
        if self.critic is None:
            return logits, torch.zeros_like(logits[:, 0])
        return logits, self.critic(batch)[0][:, 0]
