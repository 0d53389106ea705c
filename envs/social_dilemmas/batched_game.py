"""The contract of a game: B copies of it, stepped together as tensors on one device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

# Beyond these a game is a mistake in its settings, or more than a machine can hold.
MAX_AGENTS, MAX_STEPS, MAX_GAMES = 100, 1_000_000, 100_000_000


class Step(NamedTuple):
    """What one joint step of B copies gives back.

    Attributes:
        obs: ``[B, N, *obs_shape]`` of the observation space's dtype, what each agent sees after the step. Copies that
            ended still show the last observation of their episode; the caller starts the next one with
            :meth:`BatchedGame.reset`.
        rewards: ``[B, N]`` float32, extrinsic rewards.
        terminated: ``[B]`` bool, the rules ended the episode.
        truncated: ``[B]`` bool, the episode reached its horizon.
        outcomes: What happened, by name; each ``[B, N]`` float32, to be summed over steps (see
            :meth:`BatchedGame.summarize`).
    """

    obs: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    outcomes: dict[str, Tensor]


class BatchedGame(ABC):
    """B independent copies of an N-player game with simultaneous moves.

    A subclass sets the attributes below in its constructor, names in ``state_names`` every tensor that holds its
    state, each with the copies along its last axis, and draws random numbers through :meth:`_uniform` only. Then
    copies can be reset one by one, saved, restored and compared with single games.

    Attributes:
        agents: Names of the N agents, in the order of the agent axis.
        observation_space: The space of one agent's observation (the same for all). Integers in it are indices of
            classes, from 0 to the space's highest; networks embed them.
        action_space: The space of one agent's action (the same for all).
        state_space: The space of what :meth:`state` returns for one copy.
        horizon: Every copy is truncated this many steps after its last reset.
        reward_range: Lowest and highest reward that one agent can get in one step.
        action_names: Name of each action.
        observations: All observations that an agent can have, ``[S, *obs_shape]``, where these are few.
        payoffs: The payoff table ``[A] * N + [N]`` of a game in which rewards follow from the joint action alone.
        terminates_early: Whether copies may end before the horizon. If not, all copies that were reset together
            end together.
        min_agents: How few may play.
        state_names: Attributes that hold the state, each a tensor ``[.., B]``.
        presets: Settings that go together, by the name that may stand for them in the setting ``map``.
        episode_outcomes: Names of the rates of :meth:`summarize` that are defined for whole episodes alone, as a mean
            step within the episode. They are logged for the episodes that ended.
    """

    agents: tuple[str, ...]
    observation_space: gymnasium.Space
    action_space: gymnasium.spaces.Discrete
    state_space: gymnasium.Space
    reward_range: tuple[float, float]
    action_names: tuple[str, ...]
    observations: Tensor | None = None
    payoffs: Tensor | None = None
    terminates_early: bool = False
    min_agents: ClassVar[int] = 2
    fully_observed: ClassVar[bool] = False
    state_names: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    episode_outcomes: frozenset[str] = frozenset()

    def __init__(self, *, num_agents: int, num_steps: int, num_games: int, device: str | torch.device) -> None:
        """Sets what every game has.

        Args:
            num_agents: N, how many play.
            num_steps: Steps of an episode.
            num_games: B, how many copies are stepped together.
            device: Where all tensors live.

        Raises:
            ValueError: If a count is out of range.
        """
        for name, value, least, most in (
            ("num_agents", num_agents, self.min_agents, MAX_AGENTS),
            ("num_steps", num_steps, 1, MAX_STEPS),
            ("num_games", num_games, 1, MAX_GAMES),
        ):
            if not least <= value <= most:
                raise ValueError(f"{name} is {value}; it must be from {least} to {most}")
        self.agents = tuple(f"player_{index}" for index in range(num_agents))
        self.horizon = num_steps
        self.num_games = num_games
        self.device = torch.device(device)
        self.generator = torch.Generator(device=self.device)
        self.generator.seed()
        self._steps = torch.zeros(num_games, dtype=torch.int32, device=self.device)

    @property
    def num_agents(self) -> int:
        """N, how many play."""
        return len(self.agents)

    def reset(self, *, seed: int | None = None, where: Tensor | None = None) -> Tensor:
        """Starts new episodes.

        Args:
            seed: Seeds the game's generator first, so that the same seed gives the same episode.
            where: ``[B]`` bool, the copies to start anew; all of them if None.

        Returns:
            ``[B, N, *obs_shape]``, the observations of all copies.
        """
        if seed is not None:
            self.seed(seed)
        fresh = {"_steps": torch.zeros_like(self._steps), **self._initial_state()}
        for name, initial in fresh.items():
            if where is not None:
                initial = torch.where(where, initial, getattr(self, name))
            setattr(self, name, initial)
        return self._observe()

    def step(self, actions: Tensor) -> Step:
        """Plays one joint action in every copy.

        Args:
            actions: ``[B, N]`` int64, each in the action space.

        Returns:
            The observations, rewards, ends and outcomes.

        Raises:
            ValueError: If actions are not integers of that shape, or one is not in the action space. On a GPU, where
                looking at values would wait for the device in every step, the device itself asserts the latter.
        """
        self._check_actions(actions)
        rewards, terminated, outcomes = self._play(actions)
        self._steps = self._steps + 1
        return Step(self._observe(), rewards, terminated, self._steps >= self.horizon, outcomes)

    def _check_actions(self, actions: Tensor) -> None:
        """Raises ValueError if actions have another shape or type, or are not in the action space."""
        shape, count = (self.num_games, self.num_agents), int(self.action_space.n)
        if actions.shape != shape or actions.is_floating_point():
            raise ValueError(f"actions are {actions.dtype} {tuple(actions.shape)}; they must be torch.int64 {shape}")
        low, high = actions.aminmax()
        if actions.is_cuda:
            message = f"an action is not in {self.action_space} of {type(self).__name__}"
            torch._assert_async((low >= 0) & (high < count), message)
        elif low < 0 or high >= count:
            wrong = int(low) if low < 0 else int(high)
            raise ValueError(f"action {wrong} is not in {self.action_space} of {type(self).__name__}")

    def time_left(self) -> Tensor:
        """Share of the episode's steps that are still to come, ``[B]`` float32: 1 at the start, 0 at the horizon."""
        return 1.0 - self._steps / self.horizon

    def seed(self, seed: int) -> None:
        """Seeds the game's own generator; no global random state is touched."""
        self.generator.manual_seed(seed)

    def get_state(self) -> dict[str, Tensor]:
        """Copies of all state tensors and of the generator's state."""
        state = {name: getattr(self, name).clone() for name in ("_steps", *self.state_names)}
        return {**state, "generator": self.generator.get_state()}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Continues from what :meth:`get_state` returned."""
        for name in ("_steps", *self.state_names):
            setattr(self, name, state[name].to(self.device))
        self.generator.set_state(state["generator"])

    @abstractmethod
    def state(self) -> Tensor:
        """The joint state that a central observer may see, ``[B, *state_shape]``."""

    def views(self, obs: Tensor) -> Tensor:
        """What every agent can tell from its own observation that the others see.

        Args:
            obs: ``[B, N, *obs_shape]``.

        Returns:
            ``[B, N, N, *obs_shape]`` by ``[i, k]``: from the observation of agent i, that of the k-th agent after it.

        Raises:
            NotImplementedError: If the game is not ``fully_observed``.
        """
        raise NotImplementedError(f"{type(self).__name__} is not fully observed")

    @abstractmethod
    def _initial_state(self) -> dict[str, Tensor]:
        """State tensors ``[.., B]`` of new episodes, by the names in ``state_names``."""

    @abstractmethod
    def _observe(self) -> Tensor:
        """Observations of the present state, ``[B, N, *obs_shape]``."""

    @abstractmethod
    def _play(self, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Moves the state on by one joint action; returns rewards, terminated and outcomes as in :class:`Step`."""

    @abstractmethod
    def summarize(self, totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """Turns outcomes summed over steps into rates, element by element.

        Args:
            totals: Each outcome summed over ``num_steps`` joint steps, all of one shape, as ``[N]`` or ``[B, N]``.
            num_steps: How many joint steps were summed; where totals are of episodes of different lengths, a tensor
                ``[B, 1]``.

        Returns:
            Rates by name, of the same shape, as reported in results.
        """

    @abstractmethod
    def render_ansi(self, copy: int = 0) -> str:
        """The present state of one copy as text."""

    @abstractmethod
    def render_rgb(self, copy: int = 0) -> np.ndarray:
        """The present state of one copy as an image, ``[height, width, 3]`` uint8."""

    def _uniform(self, *shape: int, copies_last: bool = False) -> Tensor:
        """Random numbers in [0, 1), ``[B, *shape]`` or ``[*shape, B]``: the one place where a game draws."""
        size = (*shape, self.num_games) if copies_last else (self.num_games, *shape)
        return torch.rand(size, generator=self.generator, device=self.device)
