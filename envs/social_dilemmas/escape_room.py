"""Escape Room: some agents must pull levers, at a cost, so that other agents can leave through the door."""

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
    """Escape Room ER(N, M): N agents in a room whose door is open while at least M of them pull levers.

    | | |
    |---|---|
    | observation | ``[3N]`` float32, one-hot positions, its own first, then those of the agents after it |
    | action | ``Discrete(3)``, next position: 0 lever, 1 start, 2 door |
    | reward | +10 for choosing the door while it is open; otherwise -1 for a move and 0 for staying |
    | end | terminated when an agent leaves; truncated after ``num_steps`` |
    | state | ``[N, 3]`` float32, one-hot positions |
    | outcomes | ``lever_rate``, ``door_rate``, ``escape_rate``: fraction of steps with lever, door or escape |

    The door is open in a step in which at least ``num_levers`` agents choose the lever, including agents that stay
    there. An agent gains nothing by pulling a lever: agents that want to leave depend on other agents, and can motivate
    them only by sharing their reward.

    Source: Yang et al. (2020), section 5.1. The best joint return is ``10 (N - M) - M``: 9 in ER(2, 1), 8 in ER(3, 2),
    17 in ER(5, 3). In the code of the paper, agents also observe the rewards given to them, which are part of games
    with gifts here.

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
        """Builds the environments.

        Args:
            num_agents: N, number of agents.
            num_levers: M, number of agents that must pull levers to open the door.
            random_starts: If True, agents start at random positions. If False, all agents start at the position
                without lever and door.
            num_steps: Maximum episode length, in steps.
            num_games: B, number of parallel environments.
            device: Device of all tensors.

        Raises:
            ValueError: If ``num_levers`` is not between 1 and ``num_agents - 1``.
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
        """Returns the one-hot positions, ``[B, N, 3]``."""
        return self._one_hot[self._positions.t()]

    def views(self, obs: Tensor) -> Tensor:
        """Rotates the positions by k, ``[B, N, N, 3N]``."""
        return obs.unflatten(2, (-1, 3))[:, :, self._order].flatten(3)

    def _initial_state(self) -> dict[str, Tensor]:
        if self.random_starts:
            return {"_positions": (3.0 * self._uniform(self.num_agents, copies_last=True)).long()}
        return {"_positions": torch.full_like(self._positions, START)}

    def _observe(self) -> Tensor:
        return self.state()[:, self._order].flatten(2)

    def _play(self, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        next_positions = actions.t()
        levers, doors = next_positions == LEVER, next_positions == DOOR
        is_leaving = doors & (levers.sum(0) >= self.num_levers)
        rewards = torch.where(is_leaving, 10.0, -(next_positions != self._positions).float())
        self._positions = next_positions.clone()
        outcomes = {"levers": levers, "doors": doors, "escapes": is_leaving}
        return rewards.t(), is_leaving.any(0), {name: values.t().float() for name, values in outcomes.items()}

    @staticmethod
    def summarize(totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """Returns the fractions of steps in which an agent chose the lever, chose the door or left."""
        return {f"{name[:-1]}_rate": values / num_steps for name, values in totals.items()}

    def render_ansi(self, copy: int = 0) -> str:
        """Renders the agents at each place as text, e.g. ``lever 0 | start | door 1 open``."""
        positions = self._positions[:, copy].tolist()
        places = [
            " ".join([name, *(str(k) for k, position in enumerate(positions) if position == index)])
            for index, name in enumerate(PLACES)
        ]
        return " | ".join(places) + (" open" if positions.count(LEVER) >= self.num_levers else "")

    def render_rgb(self, copy: int = 0) -> np.ndarray:
        """Renders the three places side by side, with the agents in them. The door is green while it is open."""
        positions = self._positions[:, copy].tolist()
        return rendering.draw_places(PLACES, positions, positions.count(LEVER) >= self.num_levers)
