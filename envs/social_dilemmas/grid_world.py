"""Base class of grid worlds: moves, move conflicts, beams, freezing and views, batched over environments and agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor

from social_dilemmas import grid_pictures
from social_dilemmas.batched_game import BatchedGame
from social_dilemmas.grid_beams import BEAM, GROUND_CLASSES, LIT, ONESELF, OTHERS, Rays, lit_cells
from social_dilemmas.grid_map import TURNS, GridMap, tables, view_of
from social_dilemmas.grid_moves import resolve_moves

STAY, ZAP = "stay", "zap"
# Agent numbers use the five bits of a uint8 that the ground class leaves free.
MAX_AGENTS = 31


def check_ranges(settings: Mapping[str, float], least: float, most: float) -> None:
    """Raises ValueError if a setting is out of range."""
    for name, value in settings.items():
        if not least <= value <= most:
            raise ValueError(f"{name} is {value}; it must be from {least:g} to {most:g}")


class GridWorld(BatchedGame):
    """Base class of games on a grid with walls, on which agents observe, turn, move and fire beams.

    Subclasses define the contents of the cells. A cell holds one agent at most. If several agents move to the same
    cell, one of them, drawn uniformly, gets it; an agent that stays keeps its cell. Two agents cannot swap cells. An
    agent can move to a cell that another agent leaves, and cycles of three or more agents can rotate.

    Observations are class indices, uint8: below 8 for the ground, 8 and 9 for beams, 10 for the observing agent, and
    10 + k for the k-th agent after it in the order of agents, so that a policy can play for any agent. The
    forward direction is up. Agents hide the cell below them, and beams hide the ground.

    Attributes:
        map: The map.
        view_size: Number of rows and columns in the view of an agent.
        class_names: Names of the ground classes.
        beam_names: Names of the beams by number: 1 acts on the ground, 2 hits agents.
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
        """Builds lookup tables of moves, views and beams for all poses.

        Args:
            grid_map: The map.
            actions: Names of the actions. This class implements those in ``MOVES`` and ``TURNS``.
            view: Number of cells that an agent sees in every direction; or a sequence of the numbers of cells ahead,
                behind and on each side; or ``map`` for the whole map, seen from above.
            beam_length: Number of cells of each of the three rays of a beam.
            cooldowns: Cooldown by action, in steps. An agent that repeats the action during its cooldown stays.
            freeze_steps: Number of steps for which an agent that was hit is off the map.
            num_agents: N, number of agents.
            num_steps: Episode length, in steps.
            num_games: B, number of parallel environments.
            device: Device of all tensors.

        Raises:
            ValueError: If a number is out of range, or the map has fewer start cells than agents.
        """
        super().__init__(num_agents=num_agents, num_steps=num_steps, num_games=num_games, device=device)
        if num_agents > MAX_AGENTS:
            raise ValueError(f"num_agents is {num_agents}; on a grid it must be from 2 to {MAX_AGENTS}")
        cooldowns = {name: steps for name, steps in (cooldowns or {}).items() if steps}
        check_ranges({"beam_length": beam_length}, 0, 100)
        check_ranges({"freeze_steps": freeze_steps, **cooldowns}, 0, 255)
        places = len(grid_map.fixed_starts[:num_agents]) + len(grid_map.starts)
        if places < num_agents:
            raise ValueError(
                f"map: {num_agents} agents have {places} start cells; add P to the map or reduce num_agents"
            )
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
        lookup_tables = tables(grid_map, self.view, self.action_names, self.beam_length)
        self._led_to, self._rays, self._seen_cells, self._seen_at = (table.to(self.device) for table in lookup_tables)
        self._can_turn = any(name in TURNS for name in self.action_names)
        self._stay = self.action_names.index(STAY)
        agents = torch.arange(n, device=self.device)
        self._agents = agents
        self._comes_after = (agents[:, None] > agents)[..., None]
        self._marks = ((agents + 1) * GROUND_CLASSES).to(torch.uint8)[:, None]
        self._agent_copies = torch.arange(n * self.num_games, device=self.device)
        # [i * N + j]: class of agent j in the observation of agent i.
        classes = OTHERS - 1 + (agents - agents[:, None]) % n
        self._names = torch.where(classes < OTHERS, ONESELF, classes).to(torch.uint8).view(1, -1)
        self._fresh = torch.as_tensor(grid_map.ground, device=self.device)[:, None]
        self._starts = torch.tensor(grid_map.starts, dtype=torch.int64, device=self.device)
        self._fixed_starts = torch.tensor(grid_map.fixed_starts[:n], dtype=torch.int64, device=self.device)
        self._whole_map = torch.as_tensor(grid_map.numbers.ravel(), device=self.device)

    # --- episodes ---------------------------------------------------------------------------------------------------

    def _initial_state(self) -> dict[str, Tensor]:
        n, games = self.num_agents, self.num_games
        fixed_cells = self._fixed_starts[:, None].expand(-1, games)
        order = self._uniform(len(self._starts), copies_last=True).argsort(0)
        headings = torch.zeros(n, games, dtype=torch.int64, device=self.device)
        if self._can_turn:
            headings = (self._uniform(n, copies_last=True) * 4).long()
        return {
            "_ground": self._fresh.repeat(1, games),
            "_cells": torch.cat([fixed_cells, self._starts[order[: n - len(fixed_cells)]]]),
            "_headings": headings,
            "_gone": torch.zeros_like(self._gone),
            "_waits": torch.zeros_like(self._waits),
        }

    # --- actions ----------------------------------------------------------------------------------------------------

    def _begin(self, actions: Tensor) -> Tensor:
        """Begins a step: decrements freeze times and cooldowns, and puts agents back whose freeze time is over.

        Args:
            actions: ``[B, N]`` int64.

        Returns:
            Actions to execute, ``[N, B]`` int64. Frozen agents, and agents whose action is on cooldown, stay.
        """
        actions = actions.t().contiguous()
        if self.freeze_steps:
            is_frozen = self._gone > 0
            self._gone = self._gone - is_frozen.to(torch.uint8)
            self._return(is_frozen & (self._gone == 0))
            actions = torch.where(is_frozen, self._stay, actions)
        if len(self._waits):
            is_selected = actions == self._waiting_for[:, None, None]
            on_cooldown = self._waits > 0
            actions = torch.where((is_selected & on_cooldown).any(0), self._stay, actions)
            remaining_waits = self._waits - on_cooldown.to(torch.uint8)
            self._waits = torch.where(is_selected & ~on_cooldown, self._cooldowns[:, None, None], remaining_waits)
        return actions

    def _return(self, back: Tensor) -> None:
        """Puts agents, ``[N, B]`` bool, on free start cells, drawn at random."""
        starts = torch.cat([self._fixed_starts, self._starts])
        is_occupied = (self._cells[:, None] == starts[:, None]).any(0)
        order = (self._uniform(len(starts), copies_last=True) + is_occupied).argsort(0)
        cells = starts[order.gather(0, (back.cumsum(0) - 1).clamp_(min=0))]
        self._cells = torch.where(back, cells, self._cells)

    def _move(self, actions: Tensor) -> None:
        """Turns and moves all agents by their actions ``[N, B]`` int64; the class docstring defines move conflicts."""
        next_poses = self._led_to.take((self._cells * 4 + self._headings) * self._num_actions + actions)
        target = next_poses >> 2
        if self._can_turn:
            self._headings = next_poses & 3
        is_staying = target == self._cells
        # Random ranks are in [0, 1) and those of staying agents below 0, so that they keep their cells.
        ranks = self._uniform(self.num_agents, copies_last=True) - is_staying.float()
        self._cells = resolve_moves(self._cells, target, ranks, self._agents)

    def _cast(
        self, ground: Tensor, on: Tensor, target: int | None = None, stops_at_target: Tensor | None = None
    ) -> Rays:
        """Traces the three rays of each agent that fires, up to the first wall or agent.

        A ray reaches the agent that stops it, but not the wall.

        Args:
            ground: ``[P, B]`` uint8, ground classes after the moves.
            on: ``[N, B]`` bool, True for agents that fire.
            target: A ground class that also stops rays and is reached by them.
            stops_at_target: ``[N, B]`` bool, True for agents whose rays are stopped by ``target``.
        """
        games = self.num_games
        shooters = self._agent_copies if on.is_cuda else on.view(-1).nonzero()[:, 0]
        env_indices = shooters % games
        scene = ground.scatter(0, self._cells, ground.gather(0, self._cells) + self._marks)
        poses = (self._cells * 4 + self._headings).view(-1).take(shooters)
        cells = self._rays.index_select(1, poses).mul_(games).add_(env_indices).view(3, self.beam_length, -1)
        contents = scene.view(-1).take(cells)
        is_obstacle = contents >= GROUND_CLASSES
        if target is not None and stops_at_target is not None:
            is_obstacle |= ((contents & (GROUND_CLASSES - 1)) == target) & stops_at_target.view(-1).take(shooters)
        is_lit = lit_cells(contents, is_obstacle, on.view(-1).take(shooters))
        return Rays(shooters, env_indices, cells, contents, is_lit)

    def _hits(self, rays: Rays, by: Tensor) -> Tensor:
        """Counts the rays that hit each agent, ``[N, B]`` float32.

        Args:
            rays: The beams.
            by: ``[N, B]`` bool, True for agents whose beams hit other agents.
        """
        targets = rays.hit_agents() * rays.select(by)
        hits = torch.zeros((self.num_agents + 1) * self.num_games, device=self.device)
        index = (targets * self.num_games + rays.env_indices).view(-1)
        hits.scatter_add_(0, index, torch.ones_like(index, dtype=torch.float32))
        return hits.view(-1, self.num_games)[1:]

    def _freeze(self, hit: Tensor) -> None:
        """Takes agents, ``[N, B]`` bool, off the map for ``freeze_steps`` steps. Does nothing if these are 0."""
        if self.freeze_steps:
            self._gone = torch.where(hit, self.freeze_steps, self._gone).to(torch.uint8)
            self._cells = torch.where(hit, self.map.nowhere, self._cells)

    def _shine(self, ground: Tensor, beams: Sequence[tuple[Rays, Tensor, int]]) -> Tensor:
        """Adds the bits of visible beams to the ground, until the next step.

        Args:
            ground: ``[P, B]`` uint8.
            beams: Tuples of rays, a mask ``[N, B]`` of the agents whose rays are visible, and the class of the beam.
                Later beams cover earlier ones.
        """
        light = torch.zeros_like(ground)
        hidden_cell = self.map.nowhere * self.num_games
        for rays, agents, beam_class in beams:
            cells = rays.cells.masked_fill(~(rays.lit & rays.select(agents)), hidden_cell)
            light.view(-1).scatter_(0, cells.view(-1), LIT[beam_class])
        return ground | light

    def _is_occupied(self, cells: int) -> Tensor:
        """Returns a mask of the first ``cells`` cells that are occupied by an agent, ``[cells, B]`` bool."""
        is_occupied = torch.zeros(self.map.count, self.num_games, dtype=torch.bool, device=self.device)
        return is_occupied.scatter_(0, self._cells, True)[:cells]

    # --- observations -----------------------------------------------------------------------------------------------

    def _ground_without_beams(self) -> Tensor:
        """Returns the ground class of all cells, without beams, ``[P, B]`` uint8."""
        return self._ground & (GROUND_CLASSES - 1)

    def _scene(self) -> Tensor:
        """Returns the class of all cells, with beams above the ground, ``[P, B]`` uint8."""
        return torch.maximum(self._ground_without_beams(), (self._ground & LIT[BEAM]) + (self._ground >> 4))

    def _observe(self) -> Tensor:
        """Returns the classes in the view of each agent, ``[B, N, *view]`` uint8."""
        n, games = self.num_agents, self.num_games
        scene = self._scene().t().contiguous()
        height, width = self.view_size
        size = height * width
        if self.view is None:
            classes = scene.index_select(1, self._whole_map)[:, None].repeat(1, n, 1)
            # Agents that are off the map are written to an additional cell, which is dropped.
            position = self._seen_at[0].take(self._cells).t()[:, None].expand(-1, n, -1).long()
            classes = torch.cat([classes, classes[..., :1]], 2).scatter_(
                2, position, self._names.view(1, n, n).expand(games, -1, -1)
            )
            return classes[..., :size].unflatten(2, (height, width))
        ahead, _, side = self.view
        own_position = ahead * width + side
        poses = self._cells * 4 + self._headings
        index = self._seen_cells.index_select(0, poses.t().reshape(-1)).view(games, n * size)
        classes = scene.gather(1, index)
        # Write N * N agents per environment. Agents out of view are written to the position of the observing agent,
        # which is overwritten last.
        position = self._seen_at.view(-1).take(poses[:, None] * self.map.count + self._cells)
        position = position.long() + self._agents[:, None, None] * size
        classes.scatter_(1, position.view(n * n, games).t(), self._names.expand(games, -1))
        classes = classes.view(games, n, size)
        classes[..., own_position] = ONESELF
        return classes.unflatten(2, (height, width))

    def state(self) -> Tensor:
        """Returns the classes of the whole map, ``[B, rows, columns]`` uint8; ``10 + 4 * k + heading`` for agent k."""
        marks = (ONESELF + 4 * self._agents[:, None] + self._headings).to(torch.uint8)
        scene = self._scene().scatter(0, self._cells, marks)
        return scene.index_select(0, self._whole_map).t().unflatten(1, self.map.size)

    # --- rendering --------------------------------------------------------------------------------------------------

    def render_ansi(self, copy: int = 0) -> str:
        """Renders the map as text: ``^0`` is agent 0, facing up; cells in a beam end in ``+`` or ``*``."""
        return grid_pictures.write(self._picture(copy))

    def render_rgb(self, copy: int = 0) -> np.ndarray:
        """Renders the map as an image with a caption and a legend. Agents are wedges that point in their heading."""
        return grid_pictures.draw(self._picture(copy))

    def _caption(self, copy: int) -> str:
        """Returns the caption above the image of an environment."""
        return f"step {int(self._steps[copy])} of {self.horizon}"

    def _tile_names(self) -> list[str]:
        """Returns the tile name of each ground class."""
        return list(self.class_names)

    def _tiles(self, ground: np.ndarray) -> np.ndarray:
        """Converts the ground classes of all cells to tile indices, ``[P]``."""
        return ground

    def _picture(self, copy: int) -> grid_pictures.GridPicture:
        ground = self._ground[:, copy].cpu().numpy()
        numbers = self.map.numbers
        poses = zip(self._cells[:, copy].tolist(), self._headings[:, copy].tolist(), strict=True)
        return grid_pictures.GridPicture(
            ground=self._tiles(ground % GROUND_CLASSES)[numbers],
            names=self._tile_names(),
            light=(ground // GROUND_CLASSES + 1)[numbers] // 2,
            beams=self.beam_names,
            agents={
                agent: (*self.map.places[cell].tolist(), heading)
                for agent, (cell, heading) in enumerate(poses)
                if cell < self.map.wall
            },
            caption=self._caption(copy),
        )
