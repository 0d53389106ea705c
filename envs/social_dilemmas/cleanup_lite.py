"""CleanUp-lite: a small Cleanup for two agents, on a 5x4 grid without beams and headings."""

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
    """Cleanup game in which agents clean the river and eat apples by walking over them, and can zap each other.

    | | |
    |---|---|
    | observation | ``[rows, columns]`` uint8, classes of the whole map (:class:`GridWorld`) |
    | action | left, right, forward, back, stay, zap |
    | reward | +1 per apple |
    | end | truncated after ``num_steps`` |
    | state | ``[rows, columns]`` uint8, classes of the whole map |
    | outcomes | ``apples_per_step``, ``waste_cleaned_per_step``, ``zaps_per_step``; ``peace`` |

    ``peace`` is the fraction of steps in which an agent is not frozen.

    In each step, agents that are not frozen move, eat the apple or clean the waste on their cell, and zap. Then one
    orchard cell grows an apple with probability ``1 - min(1, dirty cells / waste_threshold)``, and one river cell turns
    dirty with probability ``waste_chance``. Both cells are drawn uniformly from the free cells without an agent. A zap
    hits each other agent within ``zap_range`` steps with probability ``zap_chance``. An agent that is hit stays in
    place for ``freeze_steps`` steps.

    Source: Meulemans et al. (2025), appendix, for the size, probabilities, range and freezing. The following is our
    interpretation of the paper: agents start on any cell between river and orchard, the grid has no waste and no apples
    at the start, and zaps have no direction.

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
        """Builds the environments.

        Args:
            map: The map as text: ``@`` wall, ``B`` orchard, ``R`` river, ``P`` start cell of any agent, a digit for
                the start cell of the agent with that index, blank for sand.
            num_agents: N, number of agents.
            zap_range: Maximum Manhattan distance at which a zap can hit an agent, in cells.
            zap_chance: Probability that a zap hits an agent in range.
            freeze_steps: Number of steps for which an agent that was hit can only stay.
            waste_chance: Probability per step that a river cell turns dirty.
            waste_threshold: Number of dirty cells at and above which no apples grow.
            num_steps: Episode length, in steps.
            num_games: B, number of parallel environments.
            device: Device of all tensors.

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
                raise ValueError(f"map: there is no {name}; add cells with {letter}")
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
        is_frozen = self._frozen > 0
        actions = torch.where(is_frozen, self._stay, self._begin(actions))
        self._frozen = self._frozen - is_frozen.to(torch.uint8)
        self._move(actions)
        ground_below = self._ground.gather(0, self._cells)
        is_eaten, is_cleaned = ground_below == APPLE, ground_below == WASTE
        ground = self._ground.scatter(
            0, self._cells, ground_below.masked_fill(is_eaten, SAND).masked_fill(is_cleaned, RIVER)
        )
        zaps = actions == self._zap
        self._frozen = torch.where(self._hit(zaps), self._freeze_for, self._frozen).to(torch.uint8)
        self._grow(ground)
        self._ground = ground
        terminated = torch.zeros(self.num_games, dtype=torch.bool, device=self.device)
        outcomes = {"apples": is_eaten, "waste_cleaned": is_cleaned, "zaps": zaps, "frozen": is_frozen}
        return is_eaten.float().t(), terminated, {name: values.t().float() for name, values in outcomes.items()}

    def _hit(self, zaps: Tensor) -> Tensor:
        """Samples the agents that are hit, ``[N, B]`` bool, given the agents that zap, ``[N, B]`` bool."""
        n = self.num_agents
        in_range = (
            self._in_range[self._cells[:, None], self._cells[None]] & (self._agents[:, None] != self._agents)[..., None]
        )
        return (zaps[:, None] & in_range & (self._uniform(n, n, copies_last=True) < self._zap_chance)).any(0)

    def _grow(self, ground: Tensor) -> None:
        """Adds new waste and apples to the ground, ``[P, B]`` uint8, in place."""
        orchard, river = ground[: self._orchard], ground[self._orchard : self._orchard + self._river]
        is_unoccupied = ~self._is_occupied(self._orchard + self._river)
        num_dirty = (river == WASTE).sum(0)
        draws = self._uniform(2, copies_last=True)
        grows = draws[0] < 1.0 - (num_dirty / self._waste_threshold).clamp(max=1.0)
        self._fill_free_cell(orchard, (orchard == SAND) & is_unoccupied[: self._orchard], grows, APPLE)
        self._fill_free_cell(
            river, (river == RIVER) & is_unoccupied[self._orchard :], draws[1] < self._waste_chance, WASTE
        )

    def _fill_free_cell(self, cells: Tensor, free: Tensor, where: Tensor, ground_class: int) -> None:
        """Writes a class to one random free cell, ``[cells, B]``, of the environments in ``where``, ``[B]`` bool.

        Environments without a free cell are not changed.
        """
        cell = (self._uniform(len(cells), copies_last=True) + free).argmax(0, keepdim=True)
        is_written = where & free.any(0)
        cells.scatter_(0, cell, torch.where(is_written, ground_class, cells.gather(0, cell)))

    @staticmethod
    def summarize(totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """Returns events per step, and the fraction of steps in which an agent was not frozen."""
        events = {f"{name}_per_step": totals[name] / num_steps for name in ("apples", "waste_cleaned", "zaps")}
        return {**events, "peace": 1.0 - totals["frozen"] / num_steps}
