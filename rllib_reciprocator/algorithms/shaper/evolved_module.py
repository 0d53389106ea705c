"""Policies of which perturbations play, side by side."""

from __future__ import annotations

from typing import Any

import torch
import tree
from ray.rllib.core.columns import Columns
from torch import Tensor
from torch.func import functional_call, vmap

from rllib_reciprocator.algorithms.shaper.evolution import mirrored_noise
from rllib_reciprocator.models import ActorCriticModule
from rllib_reciprocator.models.actor_critic import MEMORY
from rllib_reciprocator.models.stacked import compute_side_by_side

# Columns of streams: from which seed a stream's perturbation is drawn, and which of those drawn from it that is.
SEED, MEMBER = "perturbation/seed", "perturbation/member"


class EvolvedModule(ActorCriticModule):
    """An actor whose parameters are the mean of a population; its critic, if it has one, is not used.

    Where it is trained, runners ask for perturbations when a meta-episode begins, one for each group of copies and each
    agent in them, and these play. Elsewhere, and where the likeliest actions are asked for, the mean plays. How far
    perturbations go (``sigma``) goes with the weights.
    """

    # Rows of a perturbation go together.
    acts_by_row = False
    sigma: Tensor

    def setup(self) -> None:
        """Builds the networks; there are no perturbations yet."""
        super().setup()
        self.register_buffer("sigma", torch.zeros(()))
        self._groups = self._agents = 0
        self._members: dict[str, Tensor] = {}
        self._columns: dict[str, Tensor] = {}

    def perturb(self, groups: int, agents: int, generator: torch.Generator) -> None:
        """Draws perturbations, which play from now on.

        Args:
            groups: Of copies; games ``k * copies`` to ``(k + 1) * copies`` are group k.
            agents: How many agents it plays, each with a perturbation of its own.
            generator: What is drawn follows from it.
        """
        self._groups, self._agents = groups, agents
        device = self.sigma.device
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        mean = dict(self.actor.named_parameters())
        sizes = [each.numel() for each in mean.values()]
        noise = mirrored_noise(seed, groups, agents, sum(sizes)).to(device)
        self._members = {
            name: each.detach() + self.sigma * own.view(-1, *each.shape)
            for (name, each), own in zip(mean.items(), noise.split(sizes, 1), strict=True)
        }
        member = torch.arange(groups * agents, device=device).view(groups, agents)
        self._columns = {SEED: torch.full_like(member, seed), MEMBER: member}
        compute_side_by_side(self.actor)

    def perturbations(self) -> dict[str, Tensor]:
        """From what learners draw these perturbations again, ``[groups, agents]`` int64 by column."""
        return self._columns

    def _step(self, batch: dict[str, Any]) -> dict[str, Any]:
        if not self._members:
            return super()._step(batch)
        memory = batch.get(Columns.STATE_IN, {})
        seen = {name: batch[name] for name in (Columns.OBS, *self.inputs)}
        of_members = tree.map_structure(self._by_member, (seen, memory))
        logits, after = vmap(self._of_one)(self._members, *of_members)
        out: dict[str, Any] = {Columns.ACTION_DIST_INPUTS: self._by_row(logits)}
        if memory:
            out[Columns.STATE_OUT] = {name: self._by_row(value) for name, value in after.items()}
        return out

    def _of_one(
        self, parameters: dict[str, Tensor], seen: dict[str, Tensor], memory: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of one member's rows."""
        logits, after = functional_call(self.actor, parameters, (seen, memory.get(MEMORY)))
        return logits, {} if after is None else {MEMORY: after}

    def _by_member(self, rows: Tensor) -> Tensor:
        """``[games * agents, ..]`` to ``[groups * agents, copies, ..]``."""
        return rows.unflatten(0, (self._groups, -1, self._agents)).transpose(1, 2).flatten(0, 1)

    def _by_row(self, members: Tensor) -> Tensor:
        """``[groups * agents, copies, ..]`` to ``[games * agents, ..]``."""
        return members.unflatten(0, (self._groups, self._agents)).transpose(1, 2).flatten(0, 2)
