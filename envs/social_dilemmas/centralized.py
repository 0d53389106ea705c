"""Games with a central controller: one agent acts for all agents and gets the sum of their rewards."""

from __future__ import annotations

from itertools import product
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from social_dilemmas.batched_game import BatchedGame

MAX_ACTIONS = 10_000


class Centralized(BatchedGame):
    """Single-agent version of a game, in which a central controller acts for all agents.

    | | |
    |---|---|
    | observation | observations of all agents: vectors concatenated, planes stacked along the first axis, grids of classes side by side |
    | action | ``Discrete(A ** N)``: agent k takes action ``action // A ** k % A`` |
    | reward | sum of the rewards of all agents |
    | end, state | those of the game |
    | outcomes | those of the game, averaged over its agents |

    The return of a policy trained in it bounds the joint return that agents with separate policies can reach.

    Source: the centralized controller of Yang et al. (2020), section 5.

    Version history: v0, first.
    """  # noqa: E501

    min_agents = 1

    def __init__(
        self,
        game: str = "escape_room_v0",
        settings: dict[str, Any] | None = None,
        num_steps: int | None = None,
        num_games: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        """Builds the environments.

        Args:
            game: Id of the game.
            settings: Settings of the game.
            num_steps: Episode length, in steps. Defaults to that of the game.
            num_games: B, number of parallel environments.
            device: Device of all tensors.

        Raises:
            ValueError: If the game is unknown, a setting is unknown or out of range, the observations are not arrays,
                or there are too many joint actions.
        """
        from social_dilemmas.registry import make

        game_settings = {**(settings or {}), **({} if num_steps is None else {"num_steps": num_steps})}
        self._game = make(game, num_games, device, **game_settings)
        if isinstance(self._game, Centralized):
            raise ValueError("game: it is centralized already; pass the id of the game itself")
        super().__init__(num_agents=1, num_steps=self._game.horizon, num_games=num_games, device=device)
        n, space, names = self._game.num_agents, self._game.observation_space, self._game.action_names
        if len(names) ** n > MAX_ACTIONS:
            raise ValueError(
                f"game: {n} agents have {len(names)} ** {n} joint actions; at most {MAX_ACTIONS} are supported"
            )
        self.action_names = tuple("+".join(reversed(joint_names)) for joint_names in product(names, repeat=n))
        self.action_space = gymnasium.spaces.Discrete(len(self.action_names))
        if not isinstance(space, gymnasium.spaces.Box):
            raise ValueError(f"game: observations of {game} are not arrays (Box)")
        self._axis = -1 if len(space.shape) == 2 else 0
        low, high = (np.concatenate([bound] * n, self._axis) for bound in (space.low, space.high))
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=space.dtype)
        self.state_space = self._game.state_space
        min_reward, max_reward = self._game.reward_range
        self.reward_range = (n * min_reward, n * max_reward)
        self.terminates_early = self._game.terminates_early
        self.episode_outcomes = self._game.episode_outcomes
        self._factors = len(names) ** torch.arange(n, device=self.device)
        # The game draws its random numbers from the generator of this class, so that one generator state and one seed
        # are enough to reproduce an episode.
        self._game._uniform = self._draw  # type: ignore[method-assign]

    def _draw(self, *shape: int, copies_last: bool = False) -> Tensor:
        return self._uniform(*shape, copies_last=copies_last)

    def reset(self, *, seed: int | None = None, where: Tensor | None = None) -> Tensor:
        """Starts new episodes; see :meth:`BatchedGame.reset`."""
        if seed is not None:
            self.seed(seed)
        self._game.reset(where=where)
        return super().reset(where=where)

    def get_state(self) -> dict[str, Any]:
        """Returns copies of all state tensors, including those of the game, and of the generator's state."""
        game_state = self._game.get_state()
        del game_state["generator"]
        return {**super().get_state(), "game": game_state}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores a state that :meth:`get_state` returned."""
        super().set_state(state)
        self._game.set_state({**state["game"], "generator": self._game.generator.get_state()})

    def state(self) -> Tensor:
        """Returns the global state of the game, ``[B, *state_shape]``."""
        return self._game.state()

    def summarize(self, totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """Returns the rates of the game, averaged over its agents."""
        return self._game.summarize(totals, num_steps)

    def render_ansi(self, copy: int = 0) -> str:
        """Renders the game as text."""
        return self._game.render_ansi(copy)

    def render_rgb(self, copy: int = 0) -> np.ndarray:
        """Renders the game as an image."""
        return self._game.render_rgb(copy)

    def _initial_state(self) -> dict[str, Tensor]:
        return {}

    def _observe(self) -> Tensor:
        return torch.cat(self._game._observe().unbind(1), self._axis if self._axis < 0 else 1)[:, None]

    def _play(self, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        step = self._game.step(actions // self._factors % len(self._game.action_names))
        outcomes = {name: values.mean(1, keepdim=True) for name, values in step.outcomes.items()}
        return step.rewards.sum(1, keepdim=True), step.terminated, outcomes
