"""Any game as a game of one agent, which acts for all agents and is rewarded with the sum of their rewards."""

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
    """A game as its central controller plays it.

    | | |
    |---|---|
    | observation | what all agents see: rows of numbers one after another, planes on top of each other, pictures of classes side by side |
    | action | ``Discrete(A ** N)``: agent k does ``action // A ** k % A`` |
    | reward | the sum of all agents' rewards |
    | end, state | those of the game |
    | outcomes | those of the game, averaged over its agents |

    A policy that learns in it bounds what agents with policies of their own can reach together.

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
        """Builds the game.

        Args:
            game: Its id.
            settings: Its own settings.
            num_steps: Steps of an episode; None for the game's own.
            num_games: B, how many copies are stepped together.
            device: Where all tensors live.

        Raises:
            ValueError: If there is no such game, a setting is out of range, or there are too many joint actions.
        """
        from social_dilemmas.registry import make

        own = {**(settings or {}), **({} if num_steps is None else {"num_steps": num_steps})}
        self._game = make(game, num_games, device, **own)
        if isinstance(self._game, Centralized):
            raise ValueError("game: one agent acts for all already")
        super().__init__(num_agents=1, num_steps=self._game.horizon, num_games=num_games, device=device)
        n, space, names = self._game.num_agents, self._game.observation_space, self._game.action_names
        if len(names) ** n > MAX_ACTIONS:
            raise ValueError(f"game: {n} agents have {len(names)} ** {n} joint actions; {MAX_ACTIONS} at most")
        self.action_names = tuple("+".join(reversed(each)) for each in product(names, repeat=n))
        self.action_space = gymnasium.spaces.Discrete(len(self.action_names))
        if not isinstance(space, gymnasium.spaces.Box):
            raise ValueError(f"game: observations of {game} are no arrays")
        self._axis = -1 if len(space.shape) == 2 else 0
        low, high = (np.concatenate([bound] * n, self._axis) for bound in (space.low, space.high))
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=space.dtype)
        self.state_space = self._game.state_space
        least, most = self._game.reward_range
        self.reward_range = (n * least, n * most)
        self.terminates_early = self._game.terminates_early
        self.episode_outcomes = self._game.episode_outcomes
        self._factors = len(names) ** torch.arange(n, device=self.device)
        # All that is random is drawn here, so that one generator tells everything.
        self._game._uniform = self._drawn  # type: ignore[method-assign]

    def _drawn(self, *shape: int, copies_last: bool = False) -> Tensor:
        return self._uniform(*shape, copies_last=copies_last)

    def reset(self, *, seed: int | None = None, where: Tensor | None = None) -> Tensor:
        """Starts new episodes; see :meth:`BatchedGame.reset`."""
        if seed is not None:
            self.seed(seed)
        self._game.reset(where=where)
        return super().reset(where=where)

    def get_state(self) -> dict[str, Any]:
        """That of the game too."""
        of_game = self._game.get_state()
        del of_game["generator"]
        return {**super().get_state(), "game": of_game}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from what :meth:`get_state` returned."""
        super().set_state(state)
        self._game.set_state({**state["game"], "generator": self._game.generator.get_state()})

    def state(self) -> Tensor:
        """The joint state, ``[B, *state_shape]``."""
        return self._game.state()

    def summarize(self, totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """Rates as in the game, of an average agent."""
        return self._game.summarize(totals, num_steps)

    def render_ansi(self, copy: int = 0) -> str:
        """The game's own text."""
        return self._game.render_ansi(copy)

    def render_rgb(self, copy: int = 0) -> np.ndarray:
        """The game's own image."""
        return self._game.render_rgb(copy)

    def _initial_state(self) -> dict[str, Tensor]:
        return {}

    def _observe(self) -> Tensor:
        return torch.cat(self._game._observe().unbind(1), self._axis if self._axis < 0 else 1)[:, None]

    def _play(self, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        step = self._game.step(actions // self._factors % len(self._game.action_names))
        outcomes = {name: values.mean(1, keepdim=True) for name, values in step.outcomes.items()}
        return step.rewards.sum(1, keepdim=True), step.terminated, outcomes
