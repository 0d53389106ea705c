"""Cleanup: apples grow only while agents clean the river, and any agent in the orchard can eat them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from social_dilemmas import maps
from social_dilemmas.grid_beams import BEAM, GROUND_CLASSES
from social_dilemmas.grid_map import SAND, Letter, read_map
from social_dilemmas.grid_world import ZAP, check_ranges
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
    """Cleanup game: apples grow in an orchard at a rate that increases with the cleanliness of a river.

    | | |
    |---|---|
    | observation | ``[rows, columns]`` uint8, classes of the cells in view (:class:`GridWorld`) |
    | action | left, right, forward, back, stay; turn_right and turn_left if ``turning``; zap if ``zapping``; clean |
    | reward | +1 per apple; ``-zap_cost`` for zapping; ``-zap_penalty`` for each ray that hits the agent |
    | end | truncated after ``num_steps`` |
    | state | ``[rows, columns]`` uint8, classes of the whole map |
    | outcomes | ``apples_per_step``, ``waste_cleaned_per_step``, ``sustainability``; ``zaps_per_step``, ``peace`` |

    ``sustainability`` is the mean time step at which apples were eaten, ``peace`` the fraction of steps in which an
    agent was neither hit nor frozen (Perolat et al., 2017).

    In each step, frozen agents may return, agents turn and move, eat the apple on their cell and fire their beams; then
    waste and apples grow. A beam has three rays: the middle one starts in front of the agent, the side rays next to it.
    Walls and agents stop a ray. A cleaning ray also stops at the first dirty cell, and cleans it. With ``d`` the dirty
    fraction of the river, each orchard cell without apple and agent grows an apple with probability ``apple_chance * (1
    - d / waste_threshold)``. While ``d`` is below ``waste_limit``, at most one clean river cell per step turns dirty.

    Presets, selected by ``map``: ``small`` and ``medium`` are the 7x7 and 10x10 games of Yang et al. (2020), in which
    agents always face up and cannot zap. ``full`` has the map and parameters of SSD (Vinitsky et al., 2019; Hughes et
    al., 2018); these parameters are also the defaults for custom maps. ``melting_pot`` has the parameters of Melting
    Pot 2.0 (Agapiou et al., 2022), on a map with the same cell counts. Other settings override the preset.

    Differs from the public versions, which also differ from each other: All beams are fired simultaneously, on the map
    after the moves. SSD fires the beams of the agents one after another in random order; here, two agents that aim at
    the same dirty cell both clean it, and the second beam does not reach the next cell. Agents never share a cell; in
    SSD, two agents do if both move to the cell of a third agent that cannot leave. The forward direction is always up
    in observations; SSD shows two of the headings upside down. Agents observe beams, which SSD only renders. The
    observing agent and each other agent have separate classes. Apples do not grow under agents, as in SSD and unlike
    Melting Pot. Episodes do not end at random after 1,000 steps, unlike in Melting Pot.

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
        """Builds the environments.

        Args:
            map: The map as text: ``@`` wall, ``B`` orchard, ``A`` orchard with an apple, ``R`` river, ``H`` dirty
                river, ``S`` stream, ``P`` start cell of any agent, a digit for the start cell of the agent with that
                index, blank for sand.
            num_agents: N, number of agents.
            view: Number of cells that an agent sees in every direction; or a sequence of the numbers of cells ahead,
                behind and on each side; or ``map`` for the whole map, seen from above.
            turning: If True, agents can turn. If False, they always face up.
            zapping: If True, agents can zap each other with a second beam.
            beam_length: Number of cells of each ray.
            zap_cost: Amount subtracted from the reward of an agent that zaps.
            zap_penalty: Amount subtracted from the reward of an agent for each ray that hits it.
            zap_cooldown: Number of steps after zapping in which an agent cannot zap again.
            clean_cooldown: Number of steps after cleaning in which an agent cannot clean again.
            freeze_steps: Number of steps for which an agent that was hit is off the map, before it returns to a free
                start cell.
            random_starts: If True, any agent may also start on the cells with digits.
            apple_chance: Probability per step that an apple grows on a free orchard cell if the river is clean.
            waste_threshold: Dirty fraction of the river at and above which no apples grow.
            waste_chance: Probability per step that waste may appear at all.
            waste_chance_per_cell: Probability of each clean river cell, which are tried in random order until one
                turns dirty.
            waste_limit: Dirty fraction of the river at and above which no waste appears. Defaults to
                ``waste_threshold``.
            waste_delay: Number of steps at the start of an episode without new waste.
            num_steps: Episode length, in steps.
            num_games: B, number of parallel environments.
            device: Device of all tensors.

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
            raise ValueError("map: there is no river; add river cells (R or H)")
        self._clean = self.action_names.index(CLEAN)
        self.beam_names[1] = "cleaning"
        self._apple_chance, self._waste_threshold, self._waste_limit = apple_chance, waste_threshold, limit
        self._waste_delay = waste_delay
        # Probability that a cell turns dirty, by the number of clean cells.
        counts = torch.arange(self._river + 1, device=self.device)
        self._waste_chances = waste_chance * (1.0 - (1.0 - waste_chance_per_cell) ** counts)
        # Smallest dtype that can count the cells of the river.
        self._counts = torch.uint8 if self._river < 256 else torch.int16

    def _fire(self, actions: Tensor, ground: Tensor, rewards: Tensor) -> Fired:
        cleans, zaps = actions == self._clean, actions == self._zap
        rays = self._cast(ground, zaps | cleans, WASTE, cleans)
        rewards, beams, outcomes = self._settle_zaps(rays, zaps, rewards)
        # A ray stops at the first dirty cell, so that each ray cleans one cell at most.
        is_cleaned = rays.lit & ((rays.contents & (GROUND_CLASSES - 1)) == WASTE) & rays.select(cleans)
        cleaned_cells = rays.cells.masked_fill(~is_cleaned, 0).amax(1)
        has_cleaned = is_cleaned.any(1)
        ground.view(-1).scatter_(
            0, cleaned_cells.masked_fill_(~has_cleaned, self.map.nowhere * self.num_games).view(-1), RIVER
        )
        count = torch.zeros(cleans.numel(), device=self.device)
        num_cleanings = has_cleaned.sum(0, dtype=torch.float32)
        outcomes["waste_cleaned"] = count.scatter_(0, rays.shooters, num_cleanings).view_as(cleans)
        return rewards, [(rays, cleans, BEAM), *beams], outcomes

    def _grow(self, ground: Tensor) -> None:
        river = ground[self._orchard : self._orchard + self._river]
        clean = river != WASTE
        clean_counts = clean.view(torch.uint8).cumsum(0, dtype=self._counts)
        dirty_fraction = (self._river - clean_counts[-1]) / self._river
        self._grow_apples(ground, self._apple_chance * (1.0 - dirty_fraction / self._waste_threshold))
        draws = self._uniform(2, copies_last=True)
        turns_dirty = (draws[0] < self._waste_chances[clean_counts[-1].long()]) & (dirty_fraction < self._waste_limit)
        if self._waste_delay:
            turns_dirty &= self._steps >= self._waste_delay
        # Select the clean cell with the drawn rank: its index is the number of cells whose cumulative count of clean
        # cells does not exceed the rank.
        rank = (draws[1] * clean_counts[-1]).to(self._counts)
        cell = self._orchard + (clean_counts <= rank).sum(0)
        ground.scatter_(0, torch.where(turns_dirty, cell, self.map.nowhere)[None], WASTE)

    @staticmethod
    def summarize(totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """Returns the rates of :class:`Orchard` and the number of dirty cells cleaned per step."""
        return {**Orchard.summarize(totals, num_steps), "waste_cleaned_per_step": totals["waste_cleaned"] / num_steps}

    def _caption(self, copy: int) -> str:
        river = self._ground_without_beams()[self._orchard : self._orchard + self._river, copy]
        return f"{super()._caption(copy)}   waste {float((river == WASTE).float().mean()):.0%}"
