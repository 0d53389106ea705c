"""Games given by a payoff table: repeated two-player matrix games and the N-player public goods game."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor

from social_dilemmas import rendering
from social_dilemmas.batched_game import BatchedGame

COOPERATE, DEFECT = 0, 1


class MatrixGame(BatchedGame):
    """A normal-form game played again and again, each player seeing the last joint action.

    | | |
    |---|---|
    | observation | ``[N]`` float32: the last actions, one's own first; ``(-1, 0, .., 0)`` before the first step |
    | action | ``Discrete(2)``: 0 cooperate, 1 defect |
    | reward | the payoff table's entry for the joint action |
    | end | truncated after ``num_steps`` |
    | state | ``Discrete(1 + 2**N)``: 0 before the first step, then 1 + the joint action, player 0's the highest bit |
    | outcomes | ``cooperation_rate`` |

    Source: the memory-1 observation and its start are those of Zhou, Hong and Kao (2024), section 5; there both
    players see the joint action in one order, here each sees itself first, so that a policy can play for any agent.

    Version history: v0, first.
    """

    fully_observed: ClassVar[bool] = True
    state_names: ClassVar[tuple[str, ...]] = ("_state",)

    def __init__(
        self,
        payoffs: Sequence,
        *,
        num_steps: int = 32,
        num_games: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        """Builds the game from its table.

        Args:
            payoffs: Nested sequence of shape ``[2] * N + [N]``: ``payoffs[a_0][a_1]..`` are the rewards of all
                players under that joint action.
            num_steps: Steps of an episode.
            num_games: B, how many copies are stepped together.
            device: Where all tensors live.

        Raises:
            ValueError: If the table is not of that shape, or not finite.
        """
        table = read_table(payoffs)
        num_agents = table.dim() - 1
        if num_agents < 2 or table.shape != (2,) * num_agents + (num_agents,):
            shape = "x".join(map(str, table.shape))
            raise ValueError(f"payoffs has shape {shape}; for N players it must be 2 x .. x 2 (N times) x N, as 2x2x2")
        super().__init__(num_agents=num_agents, num_steps=num_steps, num_games=num_games, device=device)
        self.payoffs: Tensor = table.to(self.device)
        self.action_names = ("cooperate", "defect")
        self.action_space = gymnasium.spaces.Discrete(2)
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (num_agents,), np.float32)
        self.state_space = gymnasium.spaces.Discrete(1 + 2**num_agents)
        self.reward_range = (float(table.min()), float(table.max()))
        self._rewards_of = self.payoffs.reshape(-1, num_agents)
        self._observations_of = self._observation_table().to(self.device)
        self.observations = self._observations_of[:, 0]
        self._digits = 2 ** torch.arange(num_agents - 1, -1, -1, device=self.device)
        self._state = torch.zeros(num_games, dtype=torch.int64, device=self.device)

    def _observation_table(self) -> Tensor:
        """Observations by state, ``[1 + 2**N, N, N]``."""
        n = self.num_agents
        start = [-1.0] + [0.0] * (n - 1)
        rows = [[start] * n]
        rows += [
            [[float(joint[(i + k) % n]) for k in range(n)] for i in range(n)]
            for joint in product((COOPERATE, DEFECT), repeat=n)
        ]
        return torch.tensor(rows)

    def state(self) -> Tensor:
        """The memory-1 state, ``[B]`` int64."""
        return self._state

    def views(self, obs: Tensor) -> Tensor:
        """The last actions, turned on by k; before the first step all see the same, ``[B, N, N, N]``."""
        agents = torch.arange(self.num_agents, device=self.device)
        turned = obs[:, :, (agents[:, None] + agents) % self.num_agents]
        return torch.where(obs[:, :, :1, None] < 0, obs[:, :, None], turned)

    def _initial_state(self) -> dict[str, Tensor]:
        return {"_state": torch.zeros_like(self._state)}

    def _observe(self) -> Tensor:
        return self._observations_of[self._state]

    def _play(self, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        joint = (actions * self._digits).sum(1)
        self._state = joint + 1
        terminated = torch.zeros(self.num_games, dtype=torch.bool, device=self.device)
        return self._rewards_of[joint], terminated, {"cooperated": (actions == COOPERATE).float()}

    @staticmethod
    def summarize(totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """Share of steps in which each player cooperated."""
        return {"cooperation_rate": totals["cooperated"] / num_steps}

    def _last_actions(self, copy: int) -> list[int] | None:
        state = int(self._state[copy])
        return None if state == 0 else [(state - 1) >> (self.num_agents - 1 - i) & 1 for i in range(self.num_agents)]

    def render_ansi(self, copy: int = 0) -> str:
        """The last joint action and its payoffs, as ``C D | -3 0``."""
        actions = self._last_actions(copy)
        if actions is None:
            return " ".join("-" * self.num_agents)
        payoffs = self._rewards_of[int(self._state[copy]) - 1].tolist()
        return " ".join("CD"[a] for a in actions) + " | " + " ".join(f"{p:g}" for p in payoffs)

    def render_rgb(self, copy: int = 0) -> np.ndarray:
        """One square a player: green cooperated, red defected, grey before the first step."""
        return rendering.draw_choices(self._last_actions(copy), self.num_agents)


def read_table(payoffs: Sequence) -> Tensor:
    """Nested sequences of numbers as float32.

    Raises:
        ValueError: If they are not regular, or not finite.
    """
    try:
        table = torch.tensor(payoffs, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"payoffs is not a regular table of numbers ({error})") from None
    if not table.isfinite().all():
        raise ValueError("payoffs has an entry that is not finite")
    return table


def public_goods(
    num_agents: int = 4,
    multiplier: float = 1.6,
    *,
    num_steps: int = 32,
    num_games: int = 1,
    device: str | torch.device = "cpu",
) -> MatrixGame:
    """The N-player public goods game: each contributes 1 (cooperates) or nothing.

    The pot is multiplied and shared evenly: a player's reward is ``multiplier * contributors / N``, less 1 if it
    contributed. With ``1 < multiplier < N`` everyone is better off keeping its 1, and all are worse off together.

    Args:
        num_agents: N, from 2 to 8.
        multiplier: What the pot is multiplied by, strictly between 1 and N.
        num_steps: Steps of an episode.
        num_games: B, how many copies are stepped together.
        device: Where all tensors live.

    Returns:
        A :class:`MatrixGame` with that payoff table.

    Raises:
        ValueError: If N is out of range, or the multiplier does not make a dilemma.
    """
    if not 2 <= num_agents <= 8:
        raise ValueError(f"num_agents is {num_agents}; public goods has from 2 to 8 players")
    if not 1 < multiplier < num_agents:
        raise ValueError(f"multiplier is {multiplier:g}; it is a dilemma only between 1 and num_agents={num_agents}")
    shape = (2,) * num_agents
    table = np.empty((*shape, num_agents))
    for joint in product((COOPERATE, DEFECT), repeat=num_agents):
        contributed = 1 - np.array(joint)
        table[joint] = multiplier * contributed.sum() / num_agents - contributed
    return MatrixGame(table.tolist(), num_steps=num_steps, num_games=num_games, device=device)
