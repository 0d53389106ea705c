"""The mask of a rollout: which agent steps count in losses, statistics, estimators and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Columns of joint steps: [B, T] bool, steps before the end of the only episode that counts, where a rollout holds one
# episode per environment; [B, T, N] int64, the pool member that plays each agent.
VALID, MEMBERS = "valid", "members"


def before_end(ended: Tensor) -> Tensor:
    """Returns the steps before which no episode ended, ``[B, T]`` bool, from the ends of episodes, ``[B, T]`` bool."""
    ended = ended.long()
    return ended.cumsum(1) - ended == 0


@dataclass(frozen=True)
class RolloutMask:
    """The steps of a rollout that count: valid ones, and of a pool member those in which it plays.

    All losses, statistics, estimators and metrics take their mask from here. None stands for a mask that is true
    everywhere, so that rollouts without pools and early ends pay nothing.

    Attributes:
        valid: ``[B, T]`` bool, steps before the end of the episode that counts; None if all steps count.
        members: ``[B, T, N]`` int64, the pool member that plays each agent; None if there are no pools.
        pooled: Whether each agent's player is drawn from a pool.
    """

    valid: Tensor | None
    members: Tensor | None
    pooled: tuple[bool, ...]

    @classmethod
    def from_columns(cls, joint: Mapping[str, Tensor], pool_members: Sequence[Sequence[object]]) -> RolloutMask:
        """Returns the mask of a rollout.

        Args:
            joint: Its columns of joint steps, ``[B, T, ..]``.
            pool_members: The pool members of each agent.
        """
        pooled = tuple(len(pool) > 1 for pool in pool_members)
        return cls(joint.get(VALID), joint.get(MEMBERS), pooled)

    def of_member(self, agent: int, number: int) -> Tensor | None:
        """Returns the mask of one pool member in the place of one agent, ``[B, T]`` bool; None if all steps count."""
        if not self.pooled[agent] or self.members is None:
            return self.valid
        plays = self.members[..., agent] == number
        return plays if self.valid is None else plays & self.valid

    def of_module(self, agents: Sequence[int], numbers: Sequence[int]) -> Tensor | None:
        """Returns the mask of a module that plays S agents, ``[B, S, T]`` bool; None if all steps count.

        Args:
            agents: The agents' indices.
            numbers: The pool member that the module is, for each of them.
        """
        masks = [self.of_member(agent, number) for agent, number in zip(agents, numbers, strict=True)]
        if all(mask is None for mask in masks):
            return None
        shape = next(mask.shape for mask in masks if mask is not None)
        device = next(mask.device for mask in masks if mask is not None)
        everywhere = torch.ones(shape, dtype=torch.bool, device=device)
        return torch.stack([everywhere if mask is None else mask for mask in masks], 1)

    def where(self, flags: Sequence[Tensor], like: Tensor) -> Tensor:
        """Returns the steps in which each agent's player has a property, ``[B, T, N]`` bool.

        Args:
            flags: For each agent whether each of its pool members has the property, ``[members]`` bool.
            like: ``[B, T, N]``, for the shape.
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
    """A setting of all pool members, looked up by the members that play."""

    def __init__(self, values: Sequence[Sequence[float]], device: torch.device | str) -> None:
        """Keeps the values on a device.

        Args:
            values: For each agent the setting of each of its pool members.
            device: The device.
        """
        self._by_agent = [torch.tensor(members, device=device) for members in values]
        # Without differences between the members of any pool nothing has to be looked up.
        alike = all(len(set(members)) == 1 for members in values)
        self._constant = torch.tensor([members[0] for members in values], device=device) if alike else None

    def lookup(self, joint: Mapping[str, Tensor]) -> Tensor:
        """Returns the setting: ``[N]``, or ``[B, T, N]`` if members of a pool differ in it.

        Args:
            joint: A rollout's columns of joint steps.
        """
        if self._constant is not None:
            return self._constant
        members = joint[MEMBERS]
        columns = [
            values[members[..., agent]] if len(values) > 1 else values[0].expand(members.shape[:2])
            for agent, values in enumerate(self._by_agent)
        ]
        return torch.stack(columns, -1)


def count(mask: Tensor | None) -> int:
    """Returns the number of entries in which a mask is true; 0 if there is none."""
    return 0 if mask is None else int(mask.sum())
