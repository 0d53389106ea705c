"""Harvest: apples grow beside apples, so that who takes the last ones takes those of all the future."""

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
# Cells near a cell: the eight around, or the twelve within a distance of two.
NEAR = {
    8: [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)],
    12: [(down, right) for down in range(-2, 3) for right in range(-2, 3) if 0 < abs(down) + abs(right) <= 2],
}


class Harvest(Orchard):
    """Agents among apples that grow the better the more apples are near, and never where none is (Commons Harvest).

    | | |
    |---|---|
    | observation | ``[rows, columns]`` uint8, classes of what an agent sees (:class:`GridWorld`) |
    | action | left, right, forward, back, stay; turn_right and turn_left if agents turn; zap if they may |
    | reward | +1 an apple; ``-zap_cost`` to who zaps, ``-zap_penalty`` to who is hit, for each ray |
    | end | truncated after ``num_steps`` |
    | state | ``[rows, columns]`` uint8, classes of the whole map |
    | outcomes | ``apples_per_step``, ``sustainability``; ``zaps_per_step``, ``peace`` |

    ``sustainability`` is the mean step in which an apple was eaten, ``peace`` the share of steps in which one was
    neither hit nor away (Perolat et al., 2017).

    In each step agents return from where they were sent, turn and move; eat what they stand on; zap; and then apples
    grow, with a chance that ``growth`` gives by the number of apples near.

    Presets, chosen by ``map``: ``small`` is for two who face up for ever and do not zap, with four groups of five
    apples that grow faster, on 9x9 cells; ``full`` has the map and figures of SSD (Vinitsky et al., 2019; Hughes et
    al., 2018), figures which are those of a map of your own too; ``melting_pot`` has those of Melting Pot 2.0 (Agapiou
    et al., 2022), on a map with the same counts. What is set beside ``map`` goes before the preset.

    Differs from the public versions as :class:`social_dilemmas.cleanup.Cleanup` does. In SSD's code the cells near are
    the eight around, as here by default, since its radius bounds the squared distance; Melting Pot's are twelve.

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
        """Builds the game.

        Args:
            map: The map as text: ``@`` wall, ``A`` an apple, ``B`` where one may grow, ``P`` where agents may start, a
                digit where the agent of that number does, blank for sand.
            num_agents: N.
            view: Cells that an agent sees on every side; or ahead, behind and on each side; or ``map`` for all of it,
                from above.
            turning: Whether agents turn; if not, all face up for ever.
            zapping: Whether agents may zap.
            beam_length: Cells of each ray.
            zap_cost: What it costs to zap.
            zap_penalty: What it costs to be hit.
            zap_cooldown: Steps after zapping in which one cannot.
            freeze_steps: How many steps who was hit is away, to return to a free cell to start on.
            random_starts: Whether any agent may start where a digit is too.
            neighbours: How many cells are near: 8 or 12.
            growth: Chances of an apple in a step by the number of apples near; the last is that of more too.
            num_steps: Steps of an episode.
            num_games: B, how many copies are stepped together.
            device: Where all tensors live.

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
            raise ValueError(f"growth has {len(growth)} chances; it must have from 1 to {neighbours + 1}")
        check_ranges({f"growth[{k}]": chance for k, chance in enumerate(growth)}, 0, 1)
        near = self.map.reached(NEAR[neighbours])[: 4 * self._orchard : 4].T
        # What is no orchard is the cell after it, which never has an apple here.
        self._near = torch.as_tensor(near.clip(max=self._orchard), device=self.device)
        more = [growth[-1]] * (neighbours + 1 - len(growth))
        self._growth = torch.tensor([*growth, *more], device=self.device)

    def _grow(self, ground: Tensor) -> None:
        has = (ground[: self._orchard + 1] == APPLE).view(torch.uint8)
        count = has.index_select(0, self._near[0])
        for near in self._near[1:]:
            count += has.index_select(0, near)
        self._grow_apples(ground, self._growth[count.int()])
