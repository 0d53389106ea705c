"""CleanUp-lite: two agents between a river that fouls and an orchard, on a grid of 5x4 without beams or headings."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from social_dilemmas import maps
from social_dilemmas.grid_map import MOVES, SAND, Letter, read_map
from social_dilemmas.grid_world import STAY, ZAP, GridWorld, check_ranges
from social_dilemmas.orchard import APPLE

RIVER, WASTE = 3, 4
LETTERS = {
    "B": Letter(SAND, 0),
    "R": Letter(RIVER, 1),
    "P": Letter(SAND, 2, starts=True),
    " ": Letter(SAND, 2),
}


class CleanupLite(GridWorld):
    """Agents who clean a river by walking over waste, eat apples by walking over them, and may zap each other.

    | | |
    |---|---|
    | observation | ``[rows, columns]`` uint8, classes of the whole map (:class:`GridWorld`) |
    | action | left, right, forward, back, stay, zap |
    | reward | +1 an apple |
    | end | truncated after ``num_steps`` |
    | state | ``[rows, columns]`` uint8, classes of the whole map |
    | outcomes | ``apples_per_step``, ``waste_cleaned_per_step``, ``zaps_per_step``; ``peace`` |

    ``peace`` is the share of steps in which one is not frozen.

    In each step agents move, but those who are frozen; eat or clean what they stand on; zap; and then one cell of the
    river may turn dirty, with chance ``waste_chance``, and one of the orchard may grow an apple, with chance ``1 -
    min(1, dirty cells / waste_threshold)``, each drawn from those that are free and have no agent on them. A zap hits
    each other agent within ``zap_range`` steps with chance ``zap_chance``; who is hit cannot do anything for
    ``freeze_steps``.

    Source: Meulemans et al. (2025), appendix: the size, chances, range and freezing are theirs. Where agents start (on
    any cell between river and orchard), that nothing is there at the start, and that zaps have no direction is our own
    reading.

    Version history: v0, first.
    """

    class_names: tuple[str, ...] = ("sand", "wall", "apple", "river", "waste")
    state_names: ClassVar[tuple[str, ...]] = (*GridWorld.state_names, "_frozen")

    def __init__(
        self,
        map: str = maps.CLEANUP_LITE,
        num_agents: int = 2,
        *,
        zap_range: int = 2,
        zap_chance: float = 0.9,
        freeze_steps: int = 5,
        waste_chance: float = 0.35,
        waste_threshold: float = 3.0,
        num_steps: int = 64,
        num_games: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        """Builds the game.

        Args:
            map: The map as text: ``@`` wall, ``B`` orchard, ``R`` river, ``P`` where agents may start, a digit where
                the agent of that number does, blank for sand.
            num_agents: N.
            zap_range: How many steps away somebody can be hit.
            zap_chance: That who is in range is hit.
            freeze_steps: Steps in which who was hit cannot do anything.
            waste_chance: That a cell of the river turns dirty in a step.
            waste_threshold: Dirty cells from which no apples grow.
            num_steps: Steps of an episode.
            num_games: B, how many copies are stepped together.
            device: Where all tensors live.

        Raises:
            ValueError: If the map cannot be read or has no river or orchard, or a number is out of range.
        """
        super().__init__(
            read_map(map, LETTERS),
            (*MOVES, STAY, ZAP),
            view="map",
            num_agents=num_agents,
            num_steps=num_steps,
            num_games=num_games,
            device=device,
        )
        check_ranges({"zap_chance": zap_chance, "waste_chance": waste_chance}, 0, 1)
        check_ranges({"zap_range": zap_range, "freeze_steps": freeze_steps}, 0, 100)
        check_ranges({"waste_threshold": waste_threshold}, 1e-6, 1e6)
        self._orchard, self._river = self.map.blocks[0], self.map.blocks[1]
        for name, cells, letter in (("orchard", self._orchard, "B"), ("river", self._river, "R")):
            if not cells:
                raise ValueError(f"map: there is no {name}; give some {letter}")
        self.reward_range = (0.0, 1.0)
        self._zap = self.action_names.index(ZAP)
        self._zap_chance, self._freeze_for = zap_chance, freeze_steps
        self._waste_chance, self._waste_threshold = waste_chance, waste_threshold
        places = torch.as_tensor(self.map.places, device=self.device)
        self._in_range = (places[:, None] - places[None]).abs().sum(-1) <= zap_range
        self._frozen = torch.zeros(num_agents, num_games, dtype=torch.uint8, device=self.device)

    def _initial_state(self) -> dict[str, Tensor]:
        return {**super()._initial_state(), "_frozen": torch.zeros_like(self._frozen)}

    def _play(self, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        frozen = self._frozen > 0
        actions = torch.where(frozen, self._stay, self._begin(actions))
        self._frozen = self._frozen - frozen.to(torch.uint8)
        self._move(actions)
        under = self._ground.gather(0, self._cells)
        eaten, cleaned = under == APPLE, under == WASTE
        ground = self._ground.scatter(0, self._cells, under.masked_fill(eaten, SAND).masked_fill(cleaned, RIVER))
        zaps = actions == self._zap
        self._frozen = torch.where(self._hit(zaps), self._freeze_for, self._frozen).to(torch.uint8)
        self._grow(ground)
        self._ground = ground
        terminated = torch.zeros(self.num_games, dtype=torch.bool, device=self.device)
        outcomes = {"apples": eaten, "waste_cleaned": cleaned, "zaps": zaps, "frozen": frozen}
        return eaten.float().t(), terminated, {name: values.t().float() for name, values in outcomes.items()}

    def _hit(self, zaps: Tensor) -> Tensor:
        """Who is hit, ``[N, B]`` bool, from who zaps, ``[N, B]`` bool."""
        n = self.num_agents
        near = (
            self._in_range[self._cells[:, None], self._cells[None]] & (self._agents[:, None] != self._agents)[..., None]
        )
        return (zaps[:, None] & near & (self._uniform(n, n, copies_last=True) < self._zap_chance)).any(0)

    def _grow(self, ground: Tensor) -> None:
        """Lets waste and apples appear on the ground, ``[P, B]`` uint8, in place."""
        orchard, river = ground[: self._orchard], ground[self._orchard : self._orchard + self._river]
        empty = ~self._somebody_on(self._orchard + self._river)
        dirty = (river == WASTE).sum(0)
        chances = self._uniform(2, copies_last=True)
        grows = chances[0] < 1.0 - (dirty / self._waste_threshold).clamp(max=1.0)
        self._put(orchard, (orchard == SAND) & empty[: self._orchard], grows, APPLE)
        self._put(river, (river == RIVER) & empty[self._orchard :], chances[1] < self._waste_chance, WASTE)

    def _put(self, cells: Tensor, free: Tensor, where: Tensor, what: int) -> None:
        """Puts something on one free cell of some, ``[cells, B]``, in the copies ``[B]`` bool that have one."""
        drawn = (self._uniform(len(cells), copies_last=True) + free).argmax(0, keepdim=True)
        chosen = where & free.any(0)
        cells.scatter_(0, drawn, torch.where(chosen, what, cells.gather(0, drawn)))

    @staticmethod
    def summarize(totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """Events a step, and the share of steps in which one was not frozen."""
        events = {f"{name}_per_step": totals[name] / num_steps for name in ("apples", "waste_cleaned", "zaps")}
        return {**events, "peace": 1.0 - totals["frozen"] / num_steps}
