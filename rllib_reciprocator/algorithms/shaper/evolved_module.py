"""Policies whose perturbations act in one batched forward pass."""

from __future__ import annotations

from typing import Any

import torch
import tree
from ray.rllib.core.columns import Columns
from torch import Tensor
from torch.func import functional_call, vmap

from rllib_reciprocator.algorithms.shaper.evolution import mirrored_noise
from rllib_reciprocator.engine.policy_groups import PerturbedPolicy
from rllib_reciprocator.models import ActorCriticModule
from rllib_reciprocator.models.actor_critic import MEMORY
from rllib_reciprocator.models.stacked import compute_side_by_side

# Columns of streams, int64: the seed of a stream's perturbation, and the perturbation's index among those of that seed.
SEED, MEMBER = "perturbation/seed", "perturbation/member"


class EvolvedModule(PerturbedPolicy, ActorCriticModule):
    """Actor whose parameters are the mean of a population. Its critic, if it has one, is not used.

    During training, env runners request perturbations at the start of a meta-episode, one for each agent of each group
    of environments, and these act. Otherwise, and for greedy actions, the mean acts. The standard deviation of
    perturbations (``sigma``) is a buffer and is synchronized with the weights.
    """

    # The forward pass groups rows by perturbation, so rows cannot be left out.
    acts_by_row = False
    scheduled_settings = (*ActorCriticModule.scheduled_settings, "sigma")
    sigma: Tensor

    def setup(self) -> None:
        """Builds the networks, without perturbations."""
        super().setup()
        self.register_buffer("sigma", torch.zeros(()))
        self._groups = self._agents = 0
        self._members: dict[str, Tensor] = {}
        self._columns: dict[str, Tensor] = {}

    def perturb(self, groups: int, agents: int, generator: torch.Generator) -> None:
        """Samples perturbations, which act from now on.

        Args:
            groups: Number of groups; environments ``k * copies`` to ``(k + 1) * copies`` are group k.
            agents: Number of agents that the module plays, each with its own perturbation.
            generator: Random generator for the seed of the perturbations.
        """
        self._groups, self._agents = groups, agents
        device = self.sigma.device
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        mean = dict(self.actor.named_parameters())
        sizes = [param.numel() for param in mean.values()]
        noise = mirrored_noise(seed, groups, agents, sum(sizes)).to(device)
        self._members = {
            name: param.detach() + self.sigma * param_noise.view(-1, *param.shape)
            for (name, param), param_noise in zip(mean.items(), noise.split(sizes, 1), strict=True)
        }
        member = torch.arange(groups * agents, device=device).view(groups, agents)
        self._columns = {SEED: torch.full_like(member, seed), MEMBER: member}
        compute_side_by_side(self.actor)

    def perturbations(self) -> dict[str, Tensor]:
        """Returns the columns from which learners regenerate the perturbations, each ``[groups, agents]`` int64."""
        return self._columns

    def _step(self, batch: dict[str, Any]) -> dict[str, Any]:
        if not self._members:
            return super()._step(batch)
        memory = batch.get(Columns.STATE_IN, {})
        inputs = {name: batch[name] for name in (Columns.OBS, *self.inputs)}
        member_inputs = tree.map_structure(self._by_member, (inputs, memory))
        logits, state_out = vmap(self._of_one)(self._members, *member_inputs)
        out: dict[str, Any] = {Columns.ACTION_DIST_INPUTS: self._by_row(logits)}
        if memory:
            out[Columns.STATE_OUT] = {name: self._by_row(value) for name, value in state_out.items()}
        return out

    def _of_one(
        self, parameters: dict[str, Tensor], seen: dict[str, Tensor], memory: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes one step of the rows of one member."""
        logits, state_out = functional_call(self.actor, parameters, (seen, memory.get(MEMORY)))
        return logits, {} if state_out is None else {MEMORY: state_out}

    def _by_member(self, rows: Tensor) -> Tensor:
        """Reshapes rows ``[B * agents, ..]`` to members ``[groups * agents, copies, ..]``."""
        return rows.unflatten(0, (self._groups, -1, self._agents)).transpose(1, 2).flatten(0, 1)

    def _by_row(self, members: Tensor) -> Tensor:
        """Reshapes members ``[groups * agents, copies, ..]`` to rows ``[B * agents, ..]``."""
        return members.unflatten(0, (self._groups, self._agents)).transpose(1, 2).flatten(0, 2)
