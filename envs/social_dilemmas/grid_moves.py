"""Conflicts between the moves of agents on a grid."""

from __future__ import annotations

from math import ceil, log2

import torch
from torch import Tensor


def resolve_moves(cells: Tensor, targets: Tensor, ranks: Tensor, agents: Tensor) -> Tensor:
    """Resolves conflicts between moves: a cell holds one agent, and two agents cannot swap cells.

    Of several agents that move to the same cell, the one with the lowest rank gets it; of equal ranks, the agent that
    comes first. An agent can move to a cell that another agent leaves, and cycles of three or more agents can rotate.

    Args:
        cells: Cells of the agents before the move, ``[N, B]`` int64.
        targets: Cells that the agents move to; the same cell for agents that stay, ``[N, B]`` int64.
        ranks: Random numbers; negative for agents that stay, ``[N, B]`` float32.
        agents: Indices of the agents, ``[N]`` int64.

    Returns:
        Cells of the agents after the move, ``[N, B]`` int64.
    """
    n = len(agents)
    comes_after = (agents[:, None] > agents)[..., None]
    is_staying = targets == cells
    must_yield = (ranks[:, None] > ranks) | ((ranks[:, None] == ranks) & comes_after)
    is_blocked = ((targets[:, None] == targets) & must_yield).any(1) | is_staying
    moves_onto = (targets[:, None] == cells[None]) & ~is_staying[:, None]
    is_blocked = is_blocked | (moves_onto & moves_onto.transpose(0, 1)).any(1)
    # Agent on the target cell, or N for none. An agent is blocked if any agent ahead of it in the chain is blocked;
    # pointer doubling propagates this through a chain of N agents in log2(N) rounds.
    occupant = (moves_onto * (agents - n)[None, :, None]).sum(1) + n
    occupant = torch.cat([occupant, torch.full_like(occupant[:1], n)])
    is_blocked = torch.cat([is_blocked, torch.zeros_like(is_blocked[:1])])
    for _ in range(ceil(log2(n))):
        is_blocked = is_blocked | is_blocked.gather(0, occupant)
        occupant = occupant.gather(0, occupant)
    return torch.where(is_blocked[:n], cells, targets)
