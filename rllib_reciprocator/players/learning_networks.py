"""Tables and networks of many learners, computed side by side."""

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
    """For every group a row of logits, and a value, for each of a few observations."""

    def __init__(self, observations: Tensor, outputs: int, *, critic: bool, initial_std: float) -> None:
        """Nothing is drawn yet.

        Args:
            observations: All that the game has, ``[S, *obs_shape]``.
            outputs: Logits of each.
            critic: Whether there are values too.
            initial_std: Standard deviation of the first logits.
        """
        self.observations, self.outputs, self.critic, self.initial_std = observations, outputs, critic, initial_std

    def begin(self, groups: int, generator: torch.Generator) -> Parameters:
        """Tables of that many groups."""
        self.observations = self.observations.to(generator.device)
        size, device = (groups, len(self.observations)), generator.device
        noise = torch.randn(*size, self.outputs, generator=generator, device=device)
        values = {"values": torch.zeros(*size, 1, device=device)} if self.critic else {}
        return {"logits": self.initial_std * noise, **values}

    def __call__(self, parameters: Parameters, obs: Tensor) -> tuple[Tensor, Tensor]:
        """``[groups, rows, *obs_shape]`` -> logits ``[groups, rows, outputs]`` and values ``[groups, rows]``."""
        which = self._which(parameters, obs)
        values = which @ parameters["values"] if self.critic else which.new_zeros(*which.shape[:2], 1)
        return which @ parameters["logits"], values[..., 0]

    def logits(self, parameters: Parameters, obs: Tensor) -> Tensor:
        """The logits alone."""
        return self._which(parameters, obs) @ parameters["logits"]

    def _which(self, parameters: Parameters, obs: Tensor) -> Tensor:
        """Which observation each row is, one-hot, ``[groups, rows, S]``."""
        which = one_hot_lookup(obs.flatten(0, 1), self.observations)
        return which.to(parameters["logits"].dtype).unflatten(0, obs.shape[:2])


class Networks:
    """For every group networks as those of learning policies, computed side by side by ``torch.func``."""

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        """Builds one, as a template.

        Args:
            build: Builds a group's networks; they take observations and what is asked for (:class:`ActorCritic`).
        """
        self.build = build
        # Into which each group's parameters are put.
        self.template = build()
        compute_side_by_side(self.template)

    def begin(self, groups: int, generator: torch.Generator) -> Parameters:
        """Networks of that many groups."""
        device = generator.device
        self.template.to(device)
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parameters, _ = stack_module_state([self.build() for _ in range(groups)])
        return {name: each.detach().to(device) for name, each in parameters.items()}

    def __call__(self, parameters: Parameters, obs: Tensor) -> tuple[Tensor, Tensor]:
        """``[groups, rows, *obs_shape]`` -> logits ``[groups, rows, outputs]`` and values ``[groups, rows]``."""
        return self._side_by_side(parameters, obs, of="logits_and_values")

    def logits(self, parameters: Parameters, obs: Tensor) -> Tensor:
        """The logits alone."""
        return self._side_by_side(parameters, obs, of="logits")

    def _side_by_side(self, parameters: Parameters, obs: Tensor, of: str) -> Any:
        def of_one(own: Parameters, rows: Tensor) -> Any:
            return functional_call(self.template, own, (rows, of))

        return vmap(of_one)(parameters, obs)


class ActorCritic(nn.Module):
    """A network of logits, and one of values if there is a critic."""

    def __init__(self, space: Any, outputs: int, settings: Mapping[str, Any], *, critic: bool) -> None:
        """Builds the networks.

        Args:
            space: Of observations.
            outputs: Logits.
            settings: Those of ``model_config``.
            critic: Whether there is a network of values.
        """
        super().__init__()
        self.actor = Network(space, outputs, settings)
        self.critic = Network(space, 1, settings) if critic else None

    def forward(self, obs: Tensor, of: str) -> Any:
        """``[rows, *obs_shape]`` -> ``logits``, or ``logits_and_values``.

        Logits are ``[rows, outputs]``, values ``[rows]`` and zero without a critic.
        """
        batch = {Columns.OBS: obs}
        logits, _ = self.actor(batch)
        if of == "logits":
            return logits
        if self.critic is None:
            return logits, torch.zeros_like(logits[:, 0])
        return logits, self.critic(batch)[0][:, 0]
