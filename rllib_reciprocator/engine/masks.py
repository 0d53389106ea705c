"""Masks of rollouts: the agent steps that count in losses, statistics, estimators and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def before_end(ended: Tensor) -> Tensor:
    """Computes a mask of the steps of the first episode, including its last step.

    Args:
        ended: ``[B, T]`` bool, True where an episode ended with the step.

    Returns:
        ``[B, T]`` bool.
    """
    ended = ended.long()
    return ended.cumsum(1) - ended == 0


@dataclass(frozen=True)
class RolloutMask:
    """Mask of the steps of a rollout that count: valid steps, and for a pool member those in which it plays.

    All losses, statistics, estimators and metrics use this mask. None represents a mask that is true everywhere, so
    that rollouts without pools and early ends of episodes have no overhead.

    Attributes:
        valid: ``[B, T]`` bool, steps of the episode that counts; None if all steps count.
        members: ``[B, T, N]`` int64, index of the pool member that plays each agent; None if there are no pools.
        pooled: For each agent, True if it has a pool of several members.
    """

    valid: Tensor | None
    members: Tensor | None
    pooled: tuple[bool, ...]

    def of_member(self, agent: int, number: int) -> Tensor | None:
        """Returns the mask of a pool member of an agent.

        Args:
            agent: Index of the agent.
            number: Index of the pool member.

        Returns:
            ``[B, T]`` bool; None if all steps count.
        """
        if not self.pooled[agent] or self.members is None:
            return self.valid
        mask = self.members[..., agent] == number
        return mask if self.valid is None else mask & self.valid

    def of_module(self, agents: Sequence[int], numbers: Sequence[int]) -> Tensor | None:
        """Returns the mask of a module that plays S agents.

        Args:
            agents: Indices of the agents.
            numbers: Index of the module among the pool members of each of these agents.

        Returns:
            ``[B, S, T]`` bool; None if all steps count.
        """
        masks = [self.of_member(agent, number) for agent, number in zip(agents, numbers, strict=True)]
        if all(mask is None for mask in masks):
            return None
        shape = next(mask.shape for mask in masks if mask is not None)
        device = next(mask.device for mask in masks if mask is not None)
        ones = torch.ones(shape, dtype=torch.bool, device=device)
        return torch.stack([ones if mask is None else mask for mask in masks], 1)

    def where(self, flags: Sequence[Tensor], like: Tensor) -> Tensor:
        """Returns the valid steps in which each agent is played by a flagged pool member.

        Args:
            flags: Flags of the pool members of each agent, ``[members]`` bool.
            like: Tensor of shape ``[B, T, N]``.

        Returns:
            ``[B, T, N]`` bool.
        """
        columns = []
        for agent, flag in enumerate(flags):
            if self.pooled[agent] and self.members is not None:
                columns.append(flag[self.members[..., agent]])
            else:
                columns.append(flag[0].expand(like.shape[:2]))
        mask = torch.stack(columns, -1)
        return mask if self.valid is None else mask & self.valid[..., None]


class MemberSetting:
    """Setting with one value per pool member, looked up by the pool members that play in each step."""

    def __init__(self, values: Sequence[Sequence[float]], device: torch.device | str) -> None:
        """Moves the values to a device.

        Args:
            values: Values of the pool members of each agent.
            device: Device of the rollouts.
        """
        self._by_agent = [torch.tensor(member_values, device=device) for member_values in values]
        # If the pool members of each agent have equal values, no lookup per step is needed.
        is_constant = all(len(set(member_values)) == 1 for member_values in values)
        self._constant = (
            torch.tensor([member_values[0] for member_values in values], device=device) if is_constant else None
        )

    def lookup(self, members: Tensor | None) -> Tensor:
        """Returns the values that apply in each step of a rollout.

        Args:
            members: ``[B, T, N]`` int64, index of the pool member that plays each agent; None without pools.

        Returns:
            ``[B, T, N]``; ``[N]`` if the pool members of each agent have equal values.
        """
        if self._constant is not None:
            return self._constant
        assert members is not None
        columns = [
            values[members[..., agent]] if len(values) > 1 else values[0].expand(members.shape[:2])
            for agent, values in enumerate(self._by_agent)
        ]
        return torch.stack(columns, -1)


def count(mask: Tensor | None) -> int:
    """Returns the number of true entries of a mask; 0 for None."""
    return 0 if mask is None else int(mask.sum())
