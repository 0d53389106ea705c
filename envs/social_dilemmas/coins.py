"""Coins: agents on a torus who are each paid for any coin, and charged when another takes theirs."""

from __future__ import annotations

from typing import ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor

from social_dilemmas import rendering
from social_dilemmas.batched_game import BatchedGame

# Where coins may appear is found by comparing all cells with all.
MAX_CELLS = 4096


class Coins(BatchedGame):
    """N agents and N coins, one of each colour, on a grid without edges.

    | | |
    |---|---|
    | observation | ``[2N, H, W]`` float32, one-hot planes: N agents, oneself first, then N coins, one's own first |
    | action | ``Discrete(5)``: right, left, down, up, stay |
    | reward | +1 for each coin taken; -N/(N-1) to a coin's owner for each other agent that takes it |
    | end | truncated after ``num_steps`` |
    | state | ``[2N, H, W]`` float32, the planes as player 0 sees them |
    | outcomes | ``own_coin_share``: own coins of all coins taken; ``coins_per_step``: coins taken a step |

    All 2N objects start on different cells; a taken coin reappears on a cell where nothing is. Agents may meet on a
    cell, and share a coin there.

    Source: Lerer and Peysakhovich (2017), with the N-player rewards of Zhou, Hong and Kao (2024). Differs from that
    paper's code, which lets objects start on one cell and coins reappear under an agent, and which rotates agent and
    coin planes together, so that player 1 finds coins where player 0 finds agents.

    Version history: v0, first.
    """

    fully_observed: ClassVar[bool] = True
    state_names: ClassVar[tuple[str, ...]] = ("_cells",)

    def __init__(
        self,
        num_agents: int = 2,
        grid_size: int | tuple[int, int] = 3,
        *,
        num_steps: int = 32,
        num_games: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        """Builds the game.

        Args:
            num_agents: N, how many agents and coins.
            grid_size: Height and width, or one number for both.
            num_steps: Steps of an episode.
            num_games: B, how many copies are stepped together.
            device: Where all tensors live.

        Raises:
            ValueError: If the grid has no cell for each agent and coin, or too many.
        """
        super().__init__(num_agents=num_agents, num_steps=num_steps, num_games=num_games, device=device)
        height, width = (grid_size, grid_size) if isinstance(grid_size, int) else grid_size
        cells = height * width
        if min(height, width) < 1 or cells < 2 * num_agents:
            raise ValueError(
                f"grid_size {height}x{width} has no cell for each of {num_agents} agents and {num_agents} coins"
            )
        if cells > MAX_CELLS:
            raise ValueError(f"grid_size {height}x{width} has more than {MAX_CELLS} cells")
        self.grid_size = (height, width)
        self.action_names = ("right", "left", "down", "up", "stay")
        self.action_space = gymnasium.spaces.Discrete(5)
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (2 * num_agents, height, width), np.float32)
        self.state_space = self.observation_space
        self.reward_range = (-float(num_agents), float(num_agents))
        self._next_cell = self._move_table().to(self.device)
        self._events = self._event_matrix().to(self.device)
        self._one_hot = torch.eye(cells, device=self.device)
        self._up_to = torch.ones(cells, cells, device=self.device).tril()
        self._before = torch.ones(num_agents, num_agents, device=self.device).tril(-1)
        agents = torch.arange(num_agents, device=self.device)
        rotation = (agents[:, None] + agents[None, :]) % num_agents
        self._objects_seen = torch.cat([rotation, rotation + num_agents], 1).flatten()
        # Agents, then coins, with the copies along the last axis: comparing and adding is fastest along a long one.
        self._cells = torch.zeros(2 * num_agents, num_games, dtype=torch.int64, device=self.device)

    def _move_table(self) -> Tensor:
        """The cell that a move leads to, ``[cells * 5]`` by ``cell * 5 + action``."""
        height, width = self.grid_size
        moves = ((0, 1), (0, -1), (1, 0), (-1, 0), (0, 0))
        return torch.tensor(
            [
                (row + down) % height * width + (column + right) % width
                for row in range(height)
                for column in range(width)
                for down, right in moves
            ]
        )

    def _event_matrix(self) -> Tensor:
        """What each event "agent n takes coin m" adds, ``[4N, N * N]``: rewards, own coins, others' coins, takers."""
        n = self.num_agents
        matrix = torch.zeros(4, n, n, n)
        for taker in range(n):
            for owner in range(n):
                matrix[0, taker, taker, owner] += 1.0
                matrix[3, owner, taker, owner] = 1.0
                if taker == owner:
                    matrix[1, taker, taker, owner] = 1.0
                else:
                    matrix[0, owner, taker, owner] -= n / (n - 1)
                    matrix[2, taker, taker, owner] = 1.0
        return matrix.view(4 * n, n * n)

    def state(self) -> Tensor:
        """The planes as player 0 sees them, ``[B, 2N, H, W]``."""
        return self._observe()[:, 0]

    def views(self, obs: Tensor) -> Tensor:
        """The planes of agents and of coins, each turned on by k, ``[B, N, N, 2N, H, W]``."""
        return obs.index_select(2, self._objects_seen).unflatten(2, (self.num_agents, -1))

    def _initial_state(self) -> dict[str, Tensor]:
        cells = self._uniform(len(self._one_hot)).argsort(1)[:, : 2 * self.num_agents]
        return {"_cells": cells.t().contiguous()}

    def _observe(self) -> Tensor:
        seen = self._cells.index_select(0, self._objects_seen).t().reshape(-1)
        planes = self._one_hot.index_select(0, seen)
        return planes.view(self.num_games, self.num_agents, *self.observation_space.shape)

    def _play(self, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        n = self.num_agents
        agents = self._next_cell.take(self._cells[:n] * 5 + actions.t())
        coins = self._cells[n:]
        takes = agents[:, None] == coins[None, :]
        rewards, own, others, takers = (self._events @ takes.view(n * n, -1).float()).view(4, n, -1).unbind(0)
        occupied = torch.cat([agents, coins])
        coins = torch.where(takers > 0, self._free_cells(occupied, takers.clamp(max=1.0)), coins)
        self._cells = torch.cat([agents, coins])
        terminated = torch.zeros(self.num_games, dtype=torch.bool, device=self.device)
        return rewards.t(), terminated, {"own_coins": own.t(), "others_coins": others.t()}

    def _free_cells(self, occupied: Tensor, taken: Tensor) -> Tensor:
        """A new cell for each coin, ``[N, B]``: for taken ones uniform over the cells where nothing is.

        A coin's cell is found by its rank among the free cells; coins taken in the same step draw without
        replacement: a later rank skips those drawn before it, in ascending order. All counts are small whole numbers,
        exact in float32, in which sums and products are fastest.

        Args:
            occupied: ``[2N, B]``, cells where something is.
            taken: ``[N, B]`` float32, 1 for coins that need a new cell, else 0.
        """
        n, cells = self.num_agents, len(self._one_hot)
        free = torch.ones(cells, self.num_games, device=self.device).scatter_(0, occupied, 0.0)
        free_up_to = self._up_to @ free
        left = torch.addmm(free_up_to[-1:], self._before, taken, alpha=-1.0)
        ranks = list((self._uniform(n).t() * left).floor_())
        beyond = cells * (1.0 - taken[:-1])
        drawn: list[Tensor] = []
        for coin in range(n):
            for rank in drawn if coin < 2 else torch.stack(drawn).sort(0).values:
                ranks[coin] = torch.where(ranks[coin] >= rank, ranks[coin] + 1.0, ranks[coin])
            if coin < n - 1:
                drawn.append(ranks[coin] + beyond[coin])
        cells_before = (torch.stack(ranks) + 1.0 - free_up_to[:, None]).clamp_(0.0, 1.0).sum(0)
        return cells_before.long()

    @staticmethod
    def summarize(totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """Share of one's own among the coins one took (0 if none), and coins taken a step."""
        coins = totals["own_coins"] + totals["others_coins"]
        return {"own_coin_share": totals["own_coins"] / coins.clamp(min=1.0), "coins_per_step": coins / num_steps}

    def render_ansi(self, copy: int = 0) -> str:
        """The grid as text: ``A`` is player 0, ``a`` its coin, ``*`` several agents on a cell."""
        return rendering.write_grid(self.grid_size, *self._cells[:, copy].view(2, -1).tolist())

    def render_rgb(self, copy: int = 0) -> np.ndarray:
        """The grid as an image: squares are agents, discs coins, one colour a player."""
        return rendering.draw_grid(self.grid_size, *self._cells[:, copy].view(2, -1).tolist())
