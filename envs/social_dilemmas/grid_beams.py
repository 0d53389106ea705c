"""Classes of cells in observations of grids, and the rays of beams."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from social_dilemmas.grid_map import WALL

# Classes in observations. Ground classes are below 8; beams and agents have the same classes in all games.
GROUND_CLASSES = 8
BEAM, FIRE, ONESELF, OTHERS = 8, 9, 10, 11
# Bits that are added to the ground class: 8 for any beam on the cell, and 16 for a beam that hits agents.
LIT = {BEAM: 8, FIRE: 24}


class Rays(NamedTuple):
    """Beams of the M agents that fire: ``[3, L, M]`` by ray and cell of the ray, from near to far.

    Attributes:
        shooters: ``[M]`` int64, ``agent * B + environment`` of the agents that fire. On a GPU it contains all agents,
            because counting those that fire would synchronize with the device; rays of agents that do not fire are
            not lit.
        env_indices: ``[M]`` int64, environment indices of these agents.
        cells: int64, ``cell * B + environment``.
        contents: uint8, contents of the cells: the ground class, plus 8 times the number of the agent, counted from 1.
        lit: bool, True where the beam reaches the cell.
    """

    shooters: Tensor
    env_indices: Tensor
    cells: Tensor
    contents: Tensor
    lit: Tensor

    def select(self, agents: Tensor) -> Tensor:
        """Gathers the values ``[N, B]`` of the agents that fire, ``[M]``."""
        return agents.view(-1).take(self.shooters)

    def hit_agents(self) -> Tensor:
        """Returns the number of the agent that each ray hits, counted from 1, or 0 for no agent, ``[3, M]`` int64."""
        return ((self.contents >> 3) * self.lit).amax(1).long()


def lit_cells(contents: Tensor, is_obstacle: Tensor, is_active: Tensor) -> Tensor:
    """Returns the cells that rays reach, up to the first wall or obstacle, ``[3, L, M]`` bool.

    A ray reaches the obstacle that stops it, but not the wall.

    Args:
        contents: Contents of the cells of the rays, as in :class:`Rays`.
        is_obstacle: ``[3, L, M]`` bool, True for cells whose content stops a ray.
        is_active: ``[M]`` bool, True for agents that fire.
    """
    is_lit = contents != WALL
    for k in range(contents.shape[1]):
        is_lit[:, k] &= is_active
        is_active = is_lit[:, k] & ~is_obstacle[:, k]
    return is_lit
