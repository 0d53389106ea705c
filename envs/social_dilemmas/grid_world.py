"""Grids with walls: moves and their conflicts, beams, freezing and views, for all copies and agents at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, log2
from typing import ClassVar, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from social_dilemmas import grid_pictures
from social_dilemmas.batched_game import BatchedGame
from social_dilemmas.grid_map import TURNS, WALL, GridMap, tables, view_of

STAY, ZAP = "stay", "zap"
# Classes in observations. What lies on a cell is below 8; beams and agents are the same in all games.
GROUND_CLASSES = 8
BEAM, FIRE, ONESELF, OTHERS = 8, 9, 10, 11
# Bits of the ground beside the class of what lies there: whether a beam is on it, and one that hits agents.
LIT = {BEAM: 8, FIRE: 24}
# An agent's number has five bits beside those of the ground.
MAX_AGENTS = 31


class Rays(NamedTuple):
    """Where beams go, of those M who fire: ``[3, L, M]`` by ray, by cell of the ray from near to far.

    Attributes:
        who: ``[M]`` int64, ``agent * B + copy`` of who fires. On a GPU all are here, since to ask how many fire would
            mean to wait for it; rays of the others are not lit.
        copies: ``[M]`` int64, their copies.
        cells: int64, ``cell * B + copy``.
        seen: uint8, what is there: the class of the ground, and 8 times the number of an agent, counted from 1.
        lit: bool, whether the beam reaches it.
    """

    who: Tensor
    copies: Tensor
    cells: Tensor
    seen: Tensor
    lit: Tensor

    def of(self, agents: Tensor) -> Tensor:
        """``[N, B]`` of who fires, ``[M]``."""
        return agents.view(-1).take(self.who)

    def struck(self) -> Tensor:
        """The agent that each ray reaches, counted from 1, and 0 for nobody, ``[3, M]`` int64."""
        return ((self.seen >> 3) * self.lit).amax(1).long()


def check_ranges(settings: Mapping[str, float], least: float, most: float) -> None:
    """Raises ValueError if a setting is out of a range."""
    for name, value in settings.items():
        if not least <= value <= most:
            raise ValueError(f"{name} is {value}; it must be from {least:g} to {most:g}")


class GridWorld(BatchedGame):
    """Agents on a grid with walls, who look, turn, move and fire beams. The base of games that say what lies there.

    Each cell holds one agent. Of several who want one cell at once one gets it, drawn with equal chances; who stays
    keeps its own. Two do not swap; one may follow another who leaves; rings of three and more turn.

    Observations are indices of classes, uint8: what lies on the ground (below 8), 8 and 9 for beams, 10 for oneself,
    11 + k for the k-th agent after oneself in the order of agents, so that a policy can play for any of them. Ahead is
    up. An agent hides what it stands on, and beams hide the ground.

    Attributes:
        map: The map.
        view_size: Rows and columns that an agent sees.
        class_names: Of what lies on the ground, by class.
        beam_names: Of the beams that there are: 1 for the one that works on the ground, 2 for the one that hits agents.
    """

    class_names: tuple[str, ...] = ("sand", "wall")
    state_names: ClassVar[tuple[str, ...]] = ("_ground", "_cells", "_headings", "_gone", "_waits")

    def __init__(
        self,
        grid_map: GridMap,
        actions: Sequence[str],
        *,
        view: int | Sequence[int] | str,
        beam_length: int = 0,
        cooldowns: Mapping[str, int] | None = None,
        freeze_steps: int = 0,
        num_agents: int,
        num_steps: int,
        num_games: int,
        device: str | torch.device,
    ) -> None:
        """Builds tables: where each action leads from each pose, what it sees, and where its beams go.

        Args:
            grid_map: The map.
            actions: Names of the actions; those in ``MOVES`` and ``TURNS`` are done here.
            view: Cells that an agent sees on every side; or ahead, behind and on each side; or ``map`` for all of it,
                from above.
            beam_length: Cells of each of the three rays of a beam.
            cooldowns: By action how many steps after it one stays instead of doing it again.
            freeze_steps: How many steps somebody who was hit is nowhere.
            num_agents: N.
            num_steps: Steps of an episode.
            num_games: B.
            device: Where all tensors live.

        Raises:
            ValueError: If a number is out of range, or the map has no place for every agent to start.
        """
        super().__init__(num_agents=num_agents, num_steps=num_steps, num_games=num_games, device=device)
        if num_agents > MAX_AGENTS:
            raise ValueError(f"num_agents is {num_agents}; on a grid it must be from 2 to {MAX_AGENTS}")
        cooldowns = {name: steps for name, steps in (cooldowns or {}).items() if steps}
        check_ranges({"beam_length": beam_length}, 0, 100)
        check_ranges({"freeze_steps": freeze_steps, **cooldowns}, 0, 255)
        places = len(grid_map.fixed_starts[:num_agents]) + len(grid_map.starts)
        if places < num_agents:
            raise ValueError(f"map: {num_agents} agents have {places} cells to start on")
        self.map, self.view = grid_map, view_of(view)
        self.beam_names: dict[int, str] = {}
        self.beam_length, self.freeze_steps = beam_length, freeze_steps
        self.action_names = tuple(actions)
        self.action_space = gymnasium.spaces.Discrete(len(actions))
        self._num_actions = len(actions)
        self.view_size = grid_map.size if self.view is None else self.view.shape
        self.num_classes = OTHERS + num_agents - 1
        self.observation_space = gymnasium.spaces.Box(0, self.num_classes - 1, self.view_size, np.uint8)
        self.state_space = gymnasium.spaces.Box(0, ONESELF + 4 * num_agents - 1, grid_map.size, np.uint8)
        self._build_tables()
        self._ground = torch.zeros(grid_map.count, num_games, dtype=torch.uint8, device=self.device)
        self._cells = torch.zeros(num_agents, num_games, dtype=torch.int64, device=self.device)
        self._headings = torch.zeros_like(self._cells)
        self._gone = torch.zeros(num_agents, num_games, dtype=torch.uint8, device=self.device)
        self._waits = torch.zeros(len(cooldowns), num_agents, num_games, dtype=torch.uint8, device=self.device)
        self._waiting_for = torch.tensor([self.action_names.index(name) for name in cooldowns], device=self.device)
        self._cooldowns = torch.tensor(list(cooldowns.values()), dtype=torch.uint8, device=self.device)

    def _build_tables(self) -> None:
        grid_map, n = self.map, self.num_agents
        made = tables(grid_map, self.view, self.action_names, self.beam_length)
        self._led_to, self._rays, self._seen_cells, self._seen_at = (each.to(self.device) for each in made)
        self._can_turn = any(name in TURNS for name in self.action_names)
        self._stay = self.action_names.index(STAY)
        agents = torch.arange(n, device=self.device)
        self._agents = agents
        self._comes_after = (agents[:, None] > agents)[..., None]
        self._marks = ((agents + 1) * GROUND_CLASSES).to(torch.uint8)[:, None]
        self._everybody = torch.arange(n * self.num_games, device=self.device)
        # [i * N + j]: what agent j is to agent i.
        others = OTHERS - 1 + (agents - agents[:, None]) % n
        self._names = torch.where(others < OTHERS, ONESELF, others).to(torch.uint8).view(1, -1)
        self._fresh = torch.as_tensor(grid_map.ground, device=self.device)[:, None]
        self._starts = torch.tensor(grid_map.starts, dtype=torch.int64, device=self.device)
        self._fixed_starts = torch.tensor(grid_map.fixed_starts[:n], dtype=torch.int64, device=self.device)
        self._whole_map = torch.as_tensor(grid_map.numbers.ravel(), device=self.device)

    # --- episodes ---------------------------------------------------------------------------------------------------

    def _initial_state(self) -> dict[str, Tensor]:
        n, games = self.num_agents, self.num_games
        fixed = self._fixed_starts[:, None].expand(-1, games)
        order = self._uniform(len(self._starts), copies_last=True).argsort(0)
        headings = torch.zeros(n, games, dtype=torch.int64, device=self.device)
        if self._can_turn:
            headings = (self._uniform(n, copies_last=True) * 4).long()
        return {
            "_ground": self._fresh.repeat(1, games),
            "_cells": torch.cat([fixed, self._starts[order[: n - len(fixed)]]]),
            "_headings": headings,
            "_gone": torch.zeros_like(self._gone),
            "_waits": torch.zeros_like(self._waits),
        }

    # --- what agents do ---------------------------------------------------------------------------------------------

    def _begin(self, actions: Tensor) -> Tensor:
        """Begins a step: counts down for who is away or has to wait, and lets who was away long enough return.

        Args:
            actions: ``[B, N]`` int64.

        Returns:
            What agents do, ``[N, B]`` int64: of those who are away, or wait for what they want to do, to stay.
        """
        actions = actions.t().contiguous()
        if self.freeze_steps:
            away = self._gone > 0
            self._gone = self._gone - away.to(torch.uint8)
            self._return(away & (self._gone == 0))
            actions = torch.where(away, self._stay, actions)
        if len(self._waits):
            wanted = actions == self._waiting_for[:, None, None]
            waits = self._waits > 0
            actions = torch.where((wanted & waits).any(0), self._stay, actions)
            left = self._waits - waits.to(torch.uint8)
            self._waits = torch.where(wanted & ~waits, self._cooldowns[:, None, None], left)
        return actions

    def _return(self, back: Tensor) -> None:
        """Puts agents, ``[N, B]`` bool, on free cells to start on."""
        starts = torch.cat([self._fixed_starts, self._starts])
        taken = (self._cells[:, None] == starts[:, None]).any(0)
        order = (self._uniform(len(starts), copies_last=True) + taken).argsort(0)
        chosen = starts[order.gather(0, (back.cumsum(0) - 1).clamp_(min=0))]
        self._cells = torch.where(back, chosen, self._cells)

    def _move(self, actions: Tensor) -> None:
        """Turns and moves all agents, ``[N, B]`` int64; see the class for who gets which cell."""
        n = self.num_agents
        led_to = self._led_to.take((self._cells * 4 + self._headings) * self._num_actions + actions)
        target = led_to >> 2
        if self._can_turn:
            self._headings = led_to & 3
        stays = target == self._cells
        # Drawn numbers are below 1: who stays goes before all. Of equal numbers the first agent's counts less.
        rank = self._uniform(n, copies_last=True) - stays.float()
        behind = (rank[:, None] > rank) | ((rank[:, None] == rank) & self._comes_after)
        stuck = ((target[:, None] == target) & behind).any(1) | stays
        onto = (target[:, None] == self._cells[None]) & ~stays[:, None]
        stuck = stuck | (onto & onto.transpose(0, 1)).any(1)
        # Who stands where one wants to go, N for nobody; one is stuck if anybody ahead in the row is.
        ahead = (onto * (self._agents - n)[None, :, None]).sum(1) + n
        ahead = torch.cat([ahead, torch.full_like(ahead[:1], n)])
        stuck = torch.cat([stuck, torch.zeros_like(stuck[:1])])
        for _ in range(ceil(log2(n))):
            stuck = stuck | stuck.gather(0, ahead)
            ahead = ahead.gather(0, ahead)
        self._cells = torch.where(stuck[:n], self._cells, target)

    def _cast(self, ground: Tensor, on: Tensor, target: int | None = None, aimed: Tensor | None = None) -> Rays:
        """Beams of all agents at once: of the three rays of each, the cells up to a wall.

        An agent stops a ray, and is reached by it.

        Args:
            ground: ``[P, B]`` uint8, what lies there after the moves.
            on: ``[N, B]`` bool, who fires.
            target: A class of the ground that stops rays too, and is reached.
            aimed: ``[N, B]`` bool, whose rays it stops.
        """
        games = self.num_games
        who = self._everybody if on.is_cuda else on.view(-1).nonzero()[:, 0]
        copies = who % games
        scene = ground.scatter(0, self._cells, ground.gather(0, self._cells) + self._marks)
        poses = (self._cells * 4 + self._headings).view(-1).take(who)
        cells = self._rays.index_select(1, poses).mul_(games).add_(copies).view(3, self.beam_length, -1)
        seen = scene.view(-1).take(cells)
        stops = seen >= GROUND_CLASSES
        if target is not None and aimed is not None:
            stops |= ((seen & (GROUND_CLASSES - 1)) == target) & aimed.view(-1).take(who)
        lit = seen != WALL
        going = on.view(-1).take(who)
        for k in range(self.beam_length):
            lit[:, k] &= going
            going = lit[:, k] & ~stops[:, k]
        return Rays(who, copies, cells, seen, lit)

    def _hits(self, rays: Rays, by: Tensor) -> Tensor:
        """How many rays of those who fire at others hit each agent, ``[N, B]`` float32.

        Args:
            rays: The beams.
            by: ``[N, B]`` bool, whose beams hit.
        """
        struck = rays.struck() * rays.of(by)
        hits = torch.zeros((self.num_agents + 1) * self.num_games, device=self.device)
        at = (struck * self.num_games + rays.copies).view(-1)
        hits.scatter_add_(0, at, torch.ones_like(at, dtype=torch.float32))
        return hits.view(-1, self.num_games)[1:]

    def _freeze(self, hit: Tensor) -> None:
        """Takes agents off the map for ``freeze_steps``, ``[N, B]`` bool, if that is more than none."""
        if self.freeze_steps:
            self._gone = torch.where(hit, self.freeze_steps, self._gone).to(torch.uint8)
            self._cells = torch.where(hit, self.map.nowhere, self._cells)

    def _shine(self, ground: Tensor, beams: Sequence[tuple[Rays, Tensor, int]]) -> Tensor:
        """The ground with the light of beams on it until the next step.

        Args:
            ground: ``[P, B]`` uint8.
            beams: Rays, whose of them ``[N, B]`` bool, and their class; later ones are seen above earlier ones.
        """
        light = torch.zeros_like(ground)
        dark = self.map.nowhere * self.num_games
        for rays, by, colour in beams:
            cells = rays.cells.masked_fill(~(rays.lit & rays.of(by)), dark)
            light.view(-1).scatter_(0, cells.view(-1), LIT[colour])
        return ground | light

    def _somebody_on(self, cells: int) -> Tensor:
        """Whether an agent is on each of the first cells, ``[cells, B]`` bool."""
        there = torch.zeros(self.map.count, self.num_games, dtype=torch.bool, device=self.device)
        return there.scatter_(0, self._cells, True)[:cells]

    # --- what agents see --------------------------------------------------------------------------------------------

    def _lying(self) -> Tensor:
        """Classes of what lies on all cells, without beams, ``[P, B]`` uint8."""
        return self._ground & (GROUND_CLASSES - 1)

    def _scene(self) -> Tensor:
        """Classes of all cells, beams above the ground, ``[P, B]`` uint8."""
        return torch.maximum(self._lying(), (self._ground & LIT[BEAM]) + (self._ground >> 4))

    def _observe(self) -> Tensor:
        """Classes of what each agent sees, ``[B, N, *view]`` uint8."""
        n, games = self.num_agents, self.num_games
        scene = self._scene().t().contiguous()
        height, width = self.view_size
        size = height * width
        if self.view is None:
            seen = scene.index_select(1, self._whole_map)[:, None].repeat(1, n, 1)
            # One agent after the other goes in; who is nowhere goes to a cell more.
            at = self._seen_at[0].take(self._cells).t()[:, None].expand(-1, n, -1).long()
            seen = torch.cat([seen, seen[..., :1]], 2).scatter_(2, at, self._names.view(1, n, n).expand(games, -1, -1))
            return seen[..., :size].unflatten(2, (height, width))
        ahead, _, side = self.view
        oneself = ahead * width + side
        poses = self._cells * 4 + self._headings
        index = self._seen_cells.index_select(0, poses.t().reshape(-1)).view(games, n * size)
        seen = scene.gather(1, index)
        # Agents go in one by one, N * N cells a copy; who is out of sight goes to oneself, who is written last.
        at = self._seen_at.view(-1).take(poses[:, None] * self.map.count + self._cells)
        at = at.long() + self._agents[:, None, None] * size
        seen.scatter_(1, at.view(n * n, games).t(), self._names.expand(games, -1))
        seen = seen.view(games, n, size)
        seen[..., oneself] = ONESELF
        return seen.unflatten(2, (height, width))

    def state(self) -> Tensor:
        """Classes of the whole map, ``[B, rows, columns]`` uint8; ``10 + 4 * k + heading`` for agent k."""
        marks = (ONESELF + 4 * self._agents[:, None] + self._headings).to(torch.uint8)
        scene = self._scene().scatter(0, self._cells, marks)
        return scene.index_select(0, self._whole_map).t().unflatten(1, self.map.size)

    # --- pictures ---------------------------------------------------------------------------------------------------

    def render_ansi(self, copy: int = 0) -> str:
        """The map as text: ``^0`` is agent 0, facing up; cells in a beam end in ``+`` or ``*``."""
        return grid_pictures.write(self._picture(copy))

    def render_rgb(self, copy: int = 0) -> np.ndarray:
        """The map as a picture, with a caption and a legend; agents are wedges that point where they look."""
        return grid_pictures.draw(self._picture(copy))

    def _caption(self, copy: int) -> str:
        """What is said above a picture of a copy."""
        return f"step {int(self._steps[copy])} of {self.horizon}"

    def _tile_names(self) -> list[str]:
        """The tile of each class of the ground."""
        return list(self.class_names)

    def _tiles(self, ground: np.ndarray) -> np.ndarray:
        """Which tile lies on each cell, ``[P]``, of the classes there."""
        return ground

    def _picture(self, copy: int) -> grid_pictures.GridPicture:
        ground = self._ground[:, copy].cpu().numpy()
        numbers = self.map.numbers
        places = zip(self._cells[:, copy].tolist(), self._headings[:, copy].tolist(), strict=True)
        return grid_pictures.GridPicture(
            ground=self._tiles(ground % GROUND_CLASSES)[numbers],
            names=self._tile_names(),
            light=(ground // GROUND_CLASSES + 1)[numbers] // 2,
            beams=self.beam_names,
            agents={
                agent: (*self.map.places[cell].tolist(), heading)
                for agent, (cell, heading) in enumerate(places)
                if cell < self.map.wall
            },
            caption=self._caption(copy),
        )
