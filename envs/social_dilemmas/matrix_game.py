"""Games defined by a payoff table: repeated two-player matrix games and the N-player public goods game."""

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
    """Repeated normal-form game in which each player observes the last joint action.

    | | |
    |---|---|
    | observation | ``[N]`` float32: the last actions, its own first; ``(-1, 0, .., 0)`` before the first step |
    | action | ``Discrete(2)``: 0 cooperate, 1 defect |
    | reward | the payoff table's entry for the joint action |
    | end | truncated after ``num_steps`` |
    | state | ``Discrete(1 + 2**N)``: 0 before the first step, then 1 + the joint action, player 0's the highest bit |
    | outcomes | ``cooperation_rate`` |

    Source: the memory-1 observation and its initial value are those of Zhou, Hong and Kao (2024), section 5. In the
    paper, both players observe the joint action in the same order; here, each player observes its own action first, so
    that a policy can play for any agent.

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
        """Builds the environments from a payoff table.

        Args:
            payoffs: Nested sequence of shape ``[2] * N + [N]``: ``payoffs[a_0][a_1]..`` are the rewards of all
                players for the joint action ``(a_0, a_1, ..)``.
            num_steps: Episode length, in steps.
            num_games: B, number of parallel environments.
            device: Device of all tensors.

        Raises:
            ValueError: If the table has another shape, or an entry is not finite.
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
        """Returns the observations of all agents in each state, ``[1 + 2**N, N, N]``."""
        n = self.num_agents
        start = [-1.0] + [0.0] * (n - 1)
        rows = [[start] * n]
        rows += [
            [[float(joint[(i + k) % n]) for k in range(n)] for i in range(n)]
            for joint in product((COOPERATE, DEFECT), repeat=n)
        ]
        return torch.tensor(rows)

    def state(self) -> Tensor:
        """Returns the memory-1 state, ``[B]`` int64."""
        return self._state

    def views(self, obs: Tensor) -> Tensor:
        """Rotates the last actions by k, ``[B, N, N, N]``. Before the first step all agents observe the same."""
        agents = torch.arange(self.num_agents, device=self.device)
        rotated_actions = obs[:, :, (agents[:, None] + agents) % self.num_agents]
        return torch.where(obs[:, :, :1, None] < 0, obs[:, :, None], rotated_actions)

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
        """Returns the fraction of steps in which each player cooperated."""
        return {"cooperation_rate": totals["cooperated"] / num_steps}

    def _last_actions(self, copy: int) -> list[int] | None:
        state = int(self._state[copy])
        return None if state == 0 else [(state - 1) >> (self.num_agents - 1 - i) & 1 for i in range(self.num_agents)]

    def render_ansi(self, copy: int = 0) -> str:
        """Renders the last joint action and its payoffs as text, e.g. ``C D | -3 0``."""
        actions = self._last_actions(copy)
        if actions is None:
            return " ".join("-" * self.num_agents)
        payoffs = self._rewards_of[int(self._state[copy]) - 1].tolist()
        return " ".join("CD"[a] for a in actions) + " | " + " ".join(f"{p:g}" for p in payoffs)

    def render_rgb(self, copy: int = 0) -> np.ndarray:
        """Renders one square per player: green for cooperate, red for defect, gray before the first step."""
        return rendering.draw_choices(self._last_actions(copy), self.num_agents)


def read_table(payoffs: Sequence) -> Tensor:
    """Converts nested sequences of numbers to a float32 tensor.

    Raises:
        ValueError: If the sequences are not regular, or an entry is not finite.
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
    """Builds the N-player public goods game, in which each player contributes 1 (cooperates) or 0 (defects).

    The pot is multiplied and shared equally: the reward of a player is ``multiplier * contributors / N``, minus 1 if it
    contributed. With ``1 < multiplier < N``, defecting is a dominant strategy, but mutual defection is worse for all
    players than mutual cooperation.

    Args:
        num_agents: N, number of agents, from 2 to 8.
        multiplier: Factor by which the pot is multiplied, strictly between 1 and N.
        num_steps: Episode length, in steps.
        num_games: B, number of parallel environments.
        device: Device of all tensors.

    Returns:
        A :class:`MatrixGame` with the payoff table of the public goods game.

    Raises:
        ValueError: If N is out of range, or the multiplier is not strictly between 1 and N.
    """
    if not 2 <= num_agents <= 8:
        raise ValueError(f"num_agents is {num_agents}; public goods has from 2 to 8 players")
    if not 1 < multiplier < num_agents:
        raise ValueError(
            f"multiplier is {multiplier:g}; the game is a dilemma only between 1 and num_agents={num_agents}"
        )
    shape = (2,) * num_agents
    table = np.empty((*shape, num_agents))
    for joint in product((COOPERATE, DEFECT), repeat=num_agents):
        contributions = 1 - np.array(joint)
        table[joint] = multiplier * contributions.sum() / num_agents - contributions
    return MatrixGame(table.tolist(), num_steps=num_steps, num_games=num_games, device=device)
