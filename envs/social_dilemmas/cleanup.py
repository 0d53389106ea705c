"""Cleanup: apples grow only while somebody cleans the river, for whoever waits in the orchard."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from social_dilemmas import maps
from social_dilemmas.grid_map import SAND, Letter, read_map
from social_dilemmas.grid_world import BEAM, GROUND_CLASSES, ZAP, check_ranges
from social_dilemmas.orchard import APPLE, Fired, Orchard

STREAM, RIVER, WASTE = 3, 4, 5
CLEAN = "clean"
LETTERS = {
    "B": Letter(SAND, 0),
    "A": Letter(APPLE, 0),
    "R": Letter(RIVER, 1),
    "H": Letter(WASTE, 1),
    "S": Letter(STREAM, 2),
    "P": Letter(SAND, 2, starts=True),
    " ": Letter(SAND, 2),
}
_LIO = {
    "num_agents": 2,
    "num_steps": 50,
    "turning": False,
    "zapping": False,
}


class Cleanup(Orchard):
    """Agents between a river that fouls and an orchard in which apples grow the better the cleaner the river is.

    | | |
    |---|---|
    | observation | ``[rows, columns]`` uint8, classes of what an agent sees (:class:`GridWorld`) |
    | action | left, right, forward, back, stay; turn_right and turn_left if agents turn; zap if they may; clean |
    | reward | +1 an apple; ``-zap_cost`` to who zaps, ``-zap_penalty`` to who is hit, for each ray |
    | end | truncated after ``num_steps`` |
    | state | ``[rows, columns]`` uint8, classes of the whole map |
    | outcomes | ``apples_per_step``, ``waste_cleaned_per_step``, ``sustainability``; ``zaps_per_step``, ``peace`` |

    ``sustainability`` is the mean step in which an apple was eaten, ``peace`` the share of steps in which one was
    neither hit nor away (Perolat et al., 2017).

    In each step agents return from where they were sent, turn and move; eat what they stand on; fire; and then things
    grow. A beam has three rays: the middle one starts in front of the agent, the side rays beside it. Walls and agents
    stop a ray. A cleaning ray also stops at the first dirty cell, and cleans it. With ``d`` the dirty share of the
    river, each cell of the orchard on which neither apple nor agent is grows an apple with chance ``apple_chance * (1 -
    d / waste_threshold)``; while ``d`` is below ``waste_limit`` one clean cell of the river turns dirty.

    Presets, chosen by ``map``: ``small`` and ``medium`` are the 7x7 and 10x10 games of Yang et al. (2020), in which all
    face up for ever and nobody zaps; ``full`` has the map and figures of SSD (Vinitsky et al., 2019; Hughes et al.,
    2018), figures which are those of a map of your own too; ``melting_pot`` has those of Melting Pot 2.0 (Agapiou et
    al., 2022), on a map with the same counts. What is set beside ``map`` goes before the preset.

    Differs from the public versions, which differ among themselves: all beams are fired at once, on the map as it is
    after the moves, where SSD fires one agent's after another's in random order, so that two who aim at one dirty cell
    both clean it and nobody's second beam takes the next; agents never share a cell, which in SSD two do who want that
    of a third who cannot leave; what is ahead is above whichever way one faces, which in SSD is upside down for two
    headings; beams are seen by agents, where SSD draws them only for people; oneself and each other agent are classes
    of their own. Apples do not grow under agents, as in SSD and unlike Melting Pot. There is no end drawn by chance
    after 1,000 steps as in Melting Pot.

    Version history: v0, first.
    """

    class_names: tuple[str, ...] = (*Orchard.class_names, "stream", "river", "waste")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {**_LIO, "map": maps.CLEANUP_SMALL, "view": 4, "apple_chance": 0.5, "waste_threshold": 0.6},
        "medium": {**_LIO, "map": maps.CLEANUP_MEDIUM, "view": 7, "apple_chance": 0.3},
        "full": {"map": maps.CLEANUP_FULL},
        "melting_pot": {
            "map": maps.CLEANUP_MELTING_POT,
            "num_agents": 7,
            "view": (9, 1, 5),
            "beam_length": 3,
            "zap_cost": 0.0,
            "zap_penalty": 0.0,
            "zap_cooldown": 10,
            "clean_cooldown": 2,
            "freeze_steps": 50,
            "waste_chance": 0.5,
            "waste_chance_per_cell": 1.0,
            "waste_limit": 1.0,
            "waste_delay": 50,
        },
    }

    def __init__(
        self,
        map: str = maps.CLEANUP_FULL,
        num_agents: int = 5,
        *,
        view: int | tuple[int, int, int] | str = 7,
        turning: bool = True,
        zapping: bool = True,
        beam_length: int = 5,
        zap_cost: float = 1.0,
        zap_penalty: float = 50.0,
        zap_cooldown: int = 0,
        clean_cooldown: int = 0,
        freeze_steps: int = 0,
        random_starts: bool = False,
        apple_chance: float = 0.05,
        waste_threshold: float = 0.4,
        waste_chance: float = 1.0,
        waste_chance_per_cell: float = 0.5,
        waste_limit: float | None = None,
        waste_delay: int = 0,
        num_steps: int = 1000,
        num_games: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        """Builds the game.

        Args:
            map: The map as text: ``@`` wall, ``B`` orchard, ``A`` orchard with an apple, ``R`` river, ``H`` dirty
                river, ``S`` stream, ``P`` where agents may start, a digit where the agent of that number does, blank
                for sand.
            num_agents: N.
            view: Cells that an agent sees on every side; or ahead, behind and on each side; or ``map`` for all of it,
                from above.
            turning: Whether agents turn; if not, all face up for ever.
            zapping: Whether there is a beam that hits others.
            beam_length: Cells of each ray.
            zap_cost: What it costs to zap.
            zap_penalty: What it costs to be hit.
            zap_cooldown: Steps after zapping in which one cannot.
            clean_cooldown: Steps after cleaning in which one cannot.
            freeze_steps: How many steps who was hit is away, to return to a free cell to start on.
            random_starts: Whether any agent may start where a digit is too.
            apple_chance: Of an apple on a free cell in a step, with a clean river.
            waste_threshold: The dirty share of the river from which no apples grow.
            waste_chance: That anything may turn dirty in a step.
            waste_chance_per_cell: Of each clean cell, tried in random order until one turns dirty.
            waste_limit: The dirty share from which nothing turns dirty any more; ``waste_threshold`` if None.
            waste_delay: Steps before anything turns dirty.
            num_steps: Steps of an episode.
            num_games: B, how many copies are stepped together.
            device: Where all tensors live.

        Raises:
            ValueError: If the map cannot be read or has no river or orchard, or a number is out of range.
        """
        super().__init__(
            read_map(map, LETTERS, random_starts),
            (CLEAN,),
            turning=turning,
            zapping=zapping,
            zap_cost=zap_cost,
            zap_penalty=zap_penalty,
            cooldowns={ZAP: zap_cooldown, CLEAN: clean_cooldown},
            view=view,
            beam_length=beam_length,
            freeze_steps=freeze_steps,
            num_agents=num_agents,
            num_steps=num_steps,
            num_games=num_games,
            device=device,
        )
        limit = waste_threshold if waste_limit is None else waste_limit
        chances = {
            "apple_chance": apple_chance,
            "waste_chance": waste_chance,
            "waste_chance_per_cell": waste_chance_per_cell,
            "waste_limit": limit,
        }
        check_ranges(chances, 0, 1)
        check_ranges({"waste_threshold": waste_threshold}, 1e-6, 1)
        check_ranges({"waste_delay": waste_delay}, 0, 1e6)
        self._river = self.map.blocks[1]
        if not self._river:
            raise ValueError("map: there is no river; give some R or H")
        self._clean = self.action_names.index(CLEAN)
        self.beam_names[1] = "cleaning"
        self._apple_chance, self._waste_threshold, self._waste_limit = apple_chance, waste_threshold, limit
        self._waste_delay = waste_delay
        # By the number of clean cells the chance that one of them turns dirty.
        counts = torch.arange(self._river + 1, device=self.device)
        self._waste_chances = waste_chance * (1.0 - (1.0 - waste_chance_per_cell) ** counts)
        # Clean cells are counted up to the size of the river.
        self._counts = torch.uint8 if self._river < 256 else torch.int16

    def _fire(self, actions: Tensor, ground: Tensor, rewards: Tensor) -> Fired:
        cleans, zaps = actions == self._clean, actions == self._zap
        rays = self._cast(ground, zaps | cleans, WASTE, cleans)
        rewards, beams, outcomes = self._settle_zaps(rays, zaps, rewards)
        # A ray goes no further than the first dirty cell, so that it reaches one at most.
        cleaned = rays.lit & ((rays.seen & (GROUND_CLASSES - 1)) == WASTE) & rays.of(cleans)
        at = rays.cells.masked_fill(~cleaned, 0).amax(1)
        took = cleaned.any(1)
        ground.view(-1).scatter_(0, at.masked_fill_(~took, self.map.nowhere * self.num_games).view(-1), RIVER)
        count = torch.zeros(cleans.numel(), device=self.device)
        outcomes["waste_cleaned"] = count.scatter_(0, rays.who, took.sum(0, dtype=torch.float32)).view_as(cleans)
        return rewards, [(rays, cleans, BEAM), *beams], outcomes

    def _grow(self, ground: Tensor) -> None:
        river = ground[self._orchard : self._orchard + self._river]
        clean = river != WASTE
        up_to = clean.view(torch.uint8).cumsum(0, dtype=self._counts)
        dirty = (self._river - up_to[-1]) / self._river
        self._grow_apples(ground, self._apple_chance * (1.0 - dirty / self._waste_threshold))
        draws = self._uniform(2, copies_last=True)
        turns = (draws[0] < self._waste_chances[up_to[-1].long()]) & (dirty < self._waste_limit)
        if self._waste_delay:
            turns &= self._steps >= self._waste_delay
        # The clean cell of that rank: before it are as many as there are ranks up to it.
        rank = (draws[1] * up_to[-1]).to(self._counts)
        cell = self._orchard + (up_to <= rank).sum(0)
        ground.scatter_(0, torch.where(turns, cell, self.map.nowhere)[None], WASTE)

    @staticmethod
    def summarize(totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """As in all orchards, and dirty cells cleaned a step."""
        return {**Orchard.summarize(totals, num_steps), "waste_cleaned_per_step": totals["waste_cleaned"] / num_steps}

    def _caption(self, copy: int) -> str:
        river = self._lying()[self._orchard : self._orchard + self._river, copy]
        return f"{super()._caption(copy)}   waste {float((river == WASTE).float().mean()):.0%}"
