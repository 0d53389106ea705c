"""Escape Room: some must pull levers, at a cost, so that others can leave by the door."""

from __future__ import annotations

from typing import ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor

from social_dilemmas import rendering
from social_dilemmas.batched_game import BatchedGame

LEVER, START, DOOR = range(3)
PLACES = ("lever", "start", "door")


class EscapeRoom(BatchedGame):
    """N agents in a room whose door is open while M of them pull levers: ER(N, M).

    | | |
    |---|---|
    | observation | ``[3N]`` float32, one-hot positions, one's own first, then those of the agents after oneself |
    | action | ``Discrete(3)``, where to be: 0 lever, 1 start, 2 door |
    | reward | +10 for the door while it is open; else -1 for a move and 0 for staying |
    | end | terminated when somebody leaves; truncated after ``num_steps`` |
    | state | ``[N, 3]`` float32, one-hot positions |
    | outcomes | ``lever_rate``, ``door_rate``, ``escape_rate``: how often one chose the lever or the door, or left |

    The door is open in a step in which at least ``num_levers`` agents choose the lever; staying there counts. Nobody
    gains by pulling it: whoever leaves must want others to, and can only get them to by sharing.

    Source: Yang et al. (2020), section 5.1. The best joint return is ``10 (N - M) - M``: 9 in ER(2, 1), 8 in ER(3, 2),
    17 in ER(5, 3). Their code shows agents also what they have been given; that belongs to games with gifts.

    Version history: v0, first.
    """

    terminates_early = True
    fully_observed: ClassVar[bool] = True
    state_names: ClassVar[tuple[str, ...]] = ("_positions",)

    def __init__(
        self,
        num_agents: int = 2,
        num_levers: int = 1,
        *,
        random_starts: bool = False,
        num_steps: int = 5,
        num_games: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        """Builds the game.

        Args:
            num_agents: N.
            num_levers: M, how many must pull levers.
            random_starts: Whether agents start anywhere; if not, all do where there is neither lever nor door.
            num_steps: Steps of an episode, at most.
            num_games: B, how many copies are stepped together.
            device: Where all tensors live.

        Raises:
            ValueError: If there are not fewer levers than agents.
        """
        super().__init__(num_agents=num_agents, num_steps=num_steps, num_games=num_games, device=device)
        if not 1 <= num_levers < num_agents:
            raise ValueError(f"num_levers is {num_levers}; it must be from 1 to {num_agents - 1}")
        self.num_levers, self.random_starts = num_levers, random_starts
        self.action_names = PLACES
        self.action_space = gymnasium.spaces.Discrete(3)
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (3 * num_agents,), np.float32)
        self.state_space = gymnasium.spaces.Box(0.0, 1.0, (num_agents, 3), np.float32)
        self.reward_range = (-1.0, 10.0)
        agents = torch.arange(num_agents, device=self.device)
        self._order = (agents[:, None] + agents) % num_agents
        self._one_hot = torch.eye(3, device=self.device)
        self._positions = torch.full((num_agents, num_games), START, device=self.device)

    def state(self) -> Tensor:
        """One-hot positions, ``[B, N, 3]``."""
        return self._one_hot[self._positions.t()]

    def views(self, obs: Tensor) -> Tensor:
        """Positions, turned on by k, ``[B, N, N, 3N]``."""
        return obs.unflatten(2, (-1, 3))[:, :, self._order].flatten(3)

    def _initial_state(self) -> dict[str, Tensor]:
        if self.random_starts:
            return {"_positions": (3.0 * self._uniform(self.num_agents, copies_last=True)).long()}
        return {"_positions": torch.full_like(self._positions, START)}

    def _observe(self) -> Tensor:
        return self.state()[:, self._order].flatten(2)

    def _play(self, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        chosen = actions.t()
        levers, doors = chosen == LEVER, chosen == DOOR
        leaves = doors & (levers.sum(0) >= self.num_levers)
        rewards = torch.where(leaves, 10.0, -(chosen != self._positions).float())
        self._positions = chosen.clone()
        outcomes = {"levers": levers, "doors": doors, "escapes": leaves}
        return rewards.t(), leaves.any(0), {name: values.t().float() for name, values in outcomes.items()}

    @staticmethod
    def summarize(totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """Shares of steps."""
        return {f"{name[:-1]}_rate": values / num_steps for name, values in totals.items()}

    def render_ansi(self, copy: int = 0) -> str:
        """Who is where, as ``lever 0 | start | door 1 open``."""
        positions = self._positions[:, copy].tolist()
        places = [
            " ".join([name, *(str(k) for k, at in enumerate(positions) if at == index)])
            for index, name in enumerate(PLACES)
        ]
        return " | ".join(places) + (" open" if positions.count(LEVER) >= self.num_levers else "")

    def render_rgb(self, copy: int = 0) -> np.ndarray:
        """Three places side by side, agents in them; the door is green while it is open."""
        positions = self._positions[:, copy].tolist()
        return rendering.draw_places(PLACES, positions, positions.count(LEVER) >= self.num_levers)
