"""Coins: agents on a torus are rewarded for taking any coin, and penalized when another agent takes their coin."""

from __future__ import annotations

from typing import ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor

from social_dilemmas import rendering
from social_dilemmas.batched_game import BatchedGame

# Limits the memory of the search for free cells, which uses a matrix of cells x cells.
MAX_CELLS = 4096


class Coins(BatchedGame):
    """Coins game: N agents and N coins, one of each color, on a grid without edges.

    | | |
    |---|---|
    | observation | ``[2N, H, W]`` float32, one-hot planes: N agents, itself first, then N coins, its own first |
    | action | ``Discrete(5)``: right, left, down, up, stay |
    | reward | +1 for each coin taken; -N/(N-1) to a coin's owner for each other agent that takes it |
    | end | truncated after ``num_steps`` |
    | state | ``[2N, H, W]`` float32, the observation of player 0 |
    | outcomes | ``own_coin_share``: own coins divided by all coins taken; ``coins_per_step``: coins taken per step |

    All 2N objects start on different cells. A taken coin reappears on an empty cell. Several agents may be on the same
    cell; if a coin is there, all of them take it.

    Source: Lerer and Peysakhovich (2017), with the N-player rewards of Zhou, Hong and Kao (2024). Differs from the code
    of the latter, in which objects may start on the same cell and coins may reappear under an agent, and which rotates
    agent and coin planes together, so that player 1 observes coins in the planes where player 0 observes agents.

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
        """Builds the environments.

        Args:
            num_agents: N, number of agents and of coins.
            grid_size: Height and width, or one number for both.
            num_steps: Episode length, in steps.
            num_games: B, number of parallel environments.
            device: Device of all tensors.

        Raises:
            ValueError: If the grid has fewer cells than agents and coins, or too many cells.
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
        # Agents, then coins. The environments are the last axis, because elementwise operations and sums are fastest
        # if the last axis is long.
        self._cells = torch.zeros(2 * num_agents, num_games, dtype=torch.int64, device=self.device)

    def _move_table(self) -> Tensor:
        """Returns the next cell of each move, ``[cells * 5]`` by ``cell * 5 + action``."""
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
        """Returns the contribution of each event "agent n takes coin m" to four sums, ``[4N, N * N]``.

        The sums are the reward, the own coins and the other agents' coins of each agent, and the takers of each coin.
        """
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
        """Returns the observation of player 0, ``[B, 2N, H, W]``."""
        return self._observe()[:, 0]

    def views(self, obs: Tensor) -> Tensor:
        """Rotates the planes of agents and those of coins by k, ``[B, N, N, 2N, H, W]``."""
        return obs.index_select(2, self._objects_seen).unflatten(2, (self.num_agents, -1))

    def _initial_state(self) -> dict[str, Tensor]:
        cells = self._uniform(len(self._one_hot)).argsort(1)[:, : 2 * self.num_agents]
        return {"_cells": cells.t().contiguous()}

    def _observe(self) -> Tensor:
        cells = self._cells.index_select(0, self._objects_seen).t().reshape(-1)
        planes = self._one_hot.index_select(0, cells)
        return planes.view(self.num_games, self.num_agents, *self.observation_space.shape)

    def _play(self, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        n = self.num_agents
        agents = self._next_cell.take(self._cells[:n] * 5 + actions.t())
        coins = self._cells[n:]
        take_events = agents[:, None] == coins[None, :]
        rewards, own_coins, others_coins, takers = (
            (self._events @ take_events.view(n * n, -1).float()).view(4, n, -1).unbind(0)
        )
        occupied_cells = torch.cat([agents, coins])
        coins = torch.where(takers > 0, self._free_cells(occupied_cells, takers.clamp(max=1.0)), coins)
        self._cells = torch.cat([agents, coins])
        terminated = torch.zeros(self.num_games, dtype=torch.bool, device=self.device)
        return rewards.t(), terminated, {"own_coins": own_coins.t(), "others_coins": others_coins.t()}

    def _free_cells(self, occupied_cells: Tensor, is_taken: Tensor) -> Tensor:
        """Samples a new cell for each coin, ``[N, B]``, uniformly from the empty cells for coins that were taken.

        Each coin draws a rank among the free cells. Coins taken in the same step draw without replacement: a later rank
        skips the ranks drawn before it, in ascending order. All counts are small integers, which are exact in float32;
        sums and products are fastest in this dtype.

        Args:
            occupied_cells: ``[2N, B]``, occupied cells.
            is_taken: ``[N, B]`` float32, 1 for coins that need a new cell, else 0.
        """
        n, cells = self.num_agents, len(self._one_hot)
        free = torch.ones(cells, self.num_games, device=self.device).scatter_(0, occupied_cells, 0.0)
        free_up_to = self._up_to @ free
        num_free = torch.addmm(free_up_to[-1:], self._before, is_taken, alpha=-1.0)
        ranks = list((self._uniform(n).t() * num_free).floor_())
        offset = cells * (1.0 - is_taken[:-1])
        previous_ranks: list[Tensor] = []
        for coin in range(n):
            for rank in previous_ranks if coin < 2 else torch.stack(previous_ranks).sort(0).values:
                ranks[coin] = torch.where(ranks[coin] >= rank, ranks[coin] + 1.0, ranks[coin])
            if coin < n - 1:
                previous_ranks.append(ranks[coin] + offset[coin])
        cells_before = (torch.stack(ranks) + 1.0 - free_up_to[:, None]).clamp_(0.0, 1.0).sum(0)
        return cells_before.long()

    @staticmethod
    def summarize(totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """Returns the fraction of own coins among the coins that an agent took (0 if none), and coins per step."""
        coins = totals["own_coins"] + totals["others_coins"]
        return {"own_coin_share": totals["own_coins"] / coins.clamp(min=1.0), "coins_per_step": coins / num_steps}

    def render_ansi(self, copy: int = 0) -> str:
        """Renders the grid as text: ``A`` is player 0, ``a`` its coin, ``*`` several agents on a cell."""
        return rendering.write_grid(self.grid_size, *self._cells[:, copy].view(2, -1).tolist())

    def render_rgb(self, copy: int = 0) -> np.ndarray:
        """Renders the grid as an image: squares are agents, discs are coins, with one color per player."""
        return rendering.draw_grid(self.grid_size, *self._cells[:, copy].view(2, -1).tolist())
