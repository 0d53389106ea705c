"""Harvest: apples grow near apples only, so that eating the last apples of a patch ends its growth forever."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from social_dilemmas import maps
from social_dilemmas.grid_map import SAND, Letter, read_map
from social_dilemmas.grid_world import ZAP, check_ranges
from social_dilemmas.orchard import APPLE, Orchard

LETTERS = {
    "A": Letter(APPLE, 0),
    "B": Letter(SAND, 0),
    "P": Letter(SAND, 1, starts=True),
    " ": Letter(SAND, 1),
}
# Offsets of the neighboring cells: the eight adjacent ones, or the twelve within Manhattan distance two.
NEAR = {
    8: [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)],
    12: [(down, right) for down in range(-2, 3) for right in range(-2, 3) if 0 < abs(down) + abs(right) <= 2],
}


class Harvest(Orchard):
    """Commons Harvest: apples grow faster the more apples are near, and never where there are none.

    | | |
    |---|---|
    | observation | ``[rows, columns]`` uint8, classes of the cells in view (:class:`GridWorld`) |
    | action | left, right, forward, back, stay; turn_right and turn_left if ``turning``; zap if ``zapping`` |
    | reward | +1 per apple; ``-zap_cost`` for zapping; ``-zap_penalty`` for each ray that hits the agent |
    | end | truncated after ``num_steps`` |
    | state | ``[rows, columns]`` uint8, classes of the whole map |
    | outcomes | ``apples_per_step``, ``sustainability``; ``zaps_per_step``, ``peace`` |

    ``sustainability`` is the mean time step at which apples were eaten, ``peace`` the fraction of steps in which an
    agent was neither hit nor frozen (Perolat et al., 2017).

    In each step, frozen agents may return, agents turn and move, eat the apple on their cell and zap; then apples grow
    with a probability that ``growth`` defines by the number of apples on the neighboring cells.

    Presets, selected by ``map``: ``small`` is for two agents that always face up and cannot zap, with four patches of
    five apples that grow faster, on 9x9 cells. ``full`` has the map and parameters of SSD (Vinitsky et al., 2019;
    Hughes et al., 2018); these parameters are also the defaults for custom maps. ``melting_pot`` has the parameters of
    Melting Pot 2.0 (Agapiou et al., 2022), on a map with the same cell counts. Other settings override the preset.

    Differs from the public versions as :class:`social_dilemmas.cleanup.Cleanup` does. SSD's code counts the eight
    adjacent cells, as is the default here, because its radius bounds the squared distance; Melting Pot counts twelve.

    Version history: v0, first.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {
            "map": maps.HARVEST_SMALL,
            "num_agents": 2,
            "num_steps": 100,
            "turning": False,
            "zapping": False,
            "view": 4,
            "growth": (0.0, 0.01, 0.03, 0.06),
        },
        "full": {"map": maps.HARVEST_FULL},
        "melting_pot": {
            "map": maps.HARVEST_MELTING_POT,
            "num_agents": 7,
            "view": (9, 1, 5),
            "beam_length": 3,
            "zap_cost": 0.0,
            "zap_penalty": 0.0,
            "zap_cooldown": 2,
            "freeze_steps": 4,
            "neighbours": 12,
            "growth": (0.0, 0.0025, 0.005, 0.025),
        },
    }

    def __init__(
        self,
        map: str = maps.HARVEST_FULL,
        num_agents: int = 5,
        *,
        view: int | tuple[int, int, int] | str = 7,
        turning: bool = True,
        zapping: bool = True,
        beam_length: int = 5,
        zap_cost: float = 1.0,
        zap_penalty: float = 50.0,
        zap_cooldown: int = 0,
        freeze_steps: int = 0,
        random_starts: bool = False,
        neighbours: int = 8,
        growth: tuple[float, ...] = (0.0, 0.005, 0.02, 0.05),
        num_steps: int = 1000,
        num_games: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        """Builds the environments.

        Args:
            map: The map as text: ``@`` wall, ``A`` orchard with an apple, ``B`` orchard, ``P`` start cell of any agent,
                a digit for the start cell of the agent with that index, blank for sand.
            num_agents: N, number of agents.
            view: Number of cells that an agent sees in every direction; or a sequence of the numbers of cells ahead,
                behind and on each side; or ``map`` for the whole map, seen from above.
            turning: If True, agents can turn. If False, they always face up.
            zapping: If True, agents can zap each other.
            beam_length: Number of cells of each ray.
            zap_cost: Amount subtracted from the reward of an agent that zaps.
            zap_penalty: Amount subtracted from the reward of an agent for each ray that hits it.
            zap_cooldown: Number of steps after zapping in which an agent cannot zap again.
            freeze_steps: Number of steps for which an agent that was hit is off the map, before it returns to a free
                start cell.
            random_starts: If True, any agent may also start on the cells with digits.
            neighbours: Number of neighboring cells whose apples count, 8 or 12.
            growth: Probabilities per step that an apple grows on an empty cell, by the number of apples on its
                neighboring cells. The last entry also applies to larger numbers.
            num_steps: Episode length, in steps.
            num_games: B, number of parallel environments.
            device: Device of all tensors.

        Raises:
            ValueError: If the map cannot be read or has no orchard, or a number is out of range.
        """
        super().__init__(
            read_map(map, LETTERS, random_starts),
            turning=turning,
            zapping=zapping,
            zap_cost=zap_cost,
            zap_penalty=zap_penalty,
            cooldowns={ZAP: zap_cooldown},
            view=view,
            beam_length=beam_length,
            freeze_steps=freeze_steps,
            num_agents=num_agents,
            num_steps=num_steps,
            num_games=num_games,
            device=device,
        )
        if neighbours not in NEAR:
            raise ValueError(f"neighbours is {neighbours}; it must be one of {', '.join(str(k) for k in NEAR)}")
        if not 1 <= len(growth) <= neighbours + 1:
            raise ValueError(f"growth has {len(growth)} probabilities; it must have from 1 to {neighbours + 1}")
        check_ranges({f"growth[{k}]": chance for k, chance in enumerate(growth)}, 0, 1)
        neighbor_cells = self.map.cells_at(NEAR[neighbours])[: 4 * self._orchard : 4].T
        # Neighbors outside the orchard are mapped to the first cell after it, which never has an apple.
        self._near = torch.as_tensor(neighbor_cells.clip(max=self._orchard), device=self.device)
        padding = [growth[-1]] * (neighbours + 1 - len(growth))
        self._growth = torch.tensor([*growth, *padding], device=self.device)

    def _grow(self, ground: Tensor) -> None:
        has_apple = (ground[: self._orchard + 1] == APPLE).view(torch.uint8)
        count = has_apple.index_select(0, self._near[0])
        for neighbor_cells in self._near[1:]:
            count += has_apple.index_select(0, neighbor_cells)
        self._grow_apples(ground, self._growth[count.int()])
