"""Pools from which the players of an agent are drawn, one per episode."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rllib_reciprocator.engine.policy_groups import PolicyGroup, PoolMembers


class PolicyPool:
    """Draws the pool members that play, and combines the outputs of all modules into those of the agents."""

    def __init__(
        self, pool_members: PoolMembers, groups: Sequence[PolicyGroup], *, distinct: bool, device: torch.device
    ) -> None:
        """Collects the probabilities of the pool members.

        Args:
            pool_members: Module ids and probabilities of the pool members of each agent.
            groups: Groups of policies.
            distinct: If True, a module may play at most one agent of an environment.
            device: Device of the environments.
        """
        self._num_agents, self._distinct, self._device = len(pool_members), distinct, device
        # Probabilities of the pool members of each agent with several of them.
        self._probs = {
            agent: torch.tensor([share for _, share in pool], device=device)
            for agent, pool in enumerate(pool_members)
            if len(pool) > 1
        }
        # Indices of the modules in each agent's pool, and a flag for modules that are in the pools of several agents.
        ids = [group.module_id for group in groups]
        self._modules = {
            agent: torch.tensor([ids.index(module_id) for module_id, _ in pool_members[agent]], device=device)
            for agent in self._probs
        }
        self._num_modules = len(ids)
        self._shared = torch.tensor([len(group.agents) > 1 for group in groups], device=device)
        # Index of each agent and pool member in the concatenated outputs of all modules, [B, slots, ..].
        slots = [(group.module_id, agent) for group in groups for agent in group.agents]
        self._slots = [
            [slots.index((module_id, agent)) for module_id, _ in pool] for agent, pool in enumerate(pool_members)
        ]
        self._in_order = torch.tensor([agent_slots[0] for agent_slots in self._slots], device=device)
        self._sorted = self._in_order.tolist() == list(range(len(slots)))

    def draw(self, num_groups: int, group_size: int, generator: torch.Generator) -> Tensor | None:
        """Samples the pool member of each agent, the same for all environments of a group.

        Args:
            num_groups: Number of groups of environments.
            group_size: Number of environments in a group.
            generator: Random number generator.

        Returns:
            Indices of pool members, ``[B, N]`` int64; None if there are no pools.
        """
        if not self._probs:
            return None
        members = torch.zeros(num_groups, self._num_agents, dtype=torch.int64, device=self._device)
        # Modules drawn so far in each group, used if a module may play at most one of its agents.
        in_use = torch.zeros(num_groups, self._num_modules, dtype=torch.bool, device=self._device)
        for agent, agent_probs in self._probs.items():
            probs = agent_probs
            if self._distinct:
                modules = self._modules[agent]
                probs = redistribute_probabilities(
                    probs.expand(num_groups, -1), in_use[:, modules], self._shared[modules]
                )
            # Inverse transform sampling: the drawn index is the number of cumulative probabilities not above a uniform
            # random number.
            uniform = torch.rand(num_groups, 1, generator=generator, device=self._device)
            members[:, agent] = (uniform >= probs.cumsum(-1)[..., :-1]).sum(1)
            if self._distinct:
                in_use.scatter_(1, self._modules[agent][members[:, agent, None]], True)
        return members.repeat_interleave(group_size, 0)

    def choose(self, outputs: Sequence[Tensor], members: Tensor | None) -> Tensor:
        """Selects, for each agent, the output of the module that plays it.

        Args:
            outputs: Outputs of each module for its agents, ``[B, S, ..]``.
            members: ``[B, N]`` int64, index of the pool member that plays each agent; None without pools.

        Returns:
            ``[B, N, ..]``.
        """
        slots = outputs[0] if len(outputs) == 1 else torch.cat(list(outputs), 1)
        if members is None:
            return slots if self._sorted else slots.index_select(1, self._in_order)
        columns = []
        for agent, agent_slots in enumerate(self._slots):
            if len(agent_slots) == 1:
                columns.append(slots[:, agent_slots[0]])
            else:
                options = slots[:, agent_slots]
                index = members[:, agent].view(-1, 1, *[1] * (options.dim() - 2))
                columns.append(options.gather(1, index.expand(-1, 1, *options.shape[2:]))[:, 0])
        return torch.stack(columns, 1)


def redistribute_probabilities(shares: Tensor, taken: Tensor, shared: Tensor) -> Tensor:
    """Redistributes the probability of members that already play in the group among the rest of their population.

    Args:
        shares: ``[groups, members]``, probabilities of the pool members.
        taken: ``[groups, members]`` bool, members that already play another agent of the group.
        shared: ``[members]`` bool, members of the population, i.e. modules in the pools of several agents.

    Returns:
        ``[groups, members]``; unchanged in groups where the whole population already plays.
    """
    available = shares * ~taken
    population = available * shared
    excess = (shares * taken).sum(-1, keepdim=True)
    total = population.sum(-1, keepdim=True)
    return torch.where(total > 0, available + excess * population / total.clamp(min=1e-12), shares)
