"""Base class of batched environments: B environments, stepped in parallel as tensors on one device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

# Larger values are mistakes in the settings, or need more memory than a machine has.
MAX_AGENTS, MAX_STEPS, MAX_GAMES = 100, 1_000_000, 100_000_000


class Step(NamedTuple):
    """Result of one step of B environments.

    Attributes:
        obs: ``[B, N, *obs_shape]`` of the observation space's dtype, observation of each agent after the step. If an
            episode ended, its last observation; the caller starts the next episode with :meth:`BatchedGame.reset`.
        rewards: ``[B, N]`` float32, extrinsic rewards.
        terminated: ``[B]`` bool, True if the rules ended the episode.
        truncated: ``[B]`` bool, True if the episode reached its horizon.
        outcomes: Dict of ``[B, N]`` float32 tensors, the events of the step by name. They are summed over steps (see
            :meth:`BatchedGame.summarize`).
    """

    obs: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    outcomes: dict[str, Tensor]


class BatchedGame(ABC):
    """Base class of B independent parallel environments of an N-player game with simultaneous moves.

    A subclass sets the attributes below in its constructor, lists in ``state_names`` every tensor that holds its
    state, with the environments along the last axis, and draws random numbers through :meth:`_uniform` only. Then
    environments can be reset individually, saved, restored and compared with single environments.

    Attributes:
        agents: Names of the N agents, in the order of the agent axis.
        observation_space: Observation space of one agent, the same for all agents. Integers in it are class indices
            from 0 to the maximum of the space; networks embed them.
        action_space: Action space of one agent, the same for all agents.
        state_space: Space of the result of :meth:`state` for one environment.
        horizon: Number of steps after the last reset at which an environment is truncated.
        reward_range: Lowest and highest reward that one agent can receive in one step.
        action_names: Name of each action.
        observations: All possible observations of an agent, ``[S, *obs_shape]``, if there are few of them, else None.
        payoffs: Payoff table ``[A] * N + [N]`` if rewards depend on the joint action only, else None.
        terminates_early: If True, episodes may end before the horizon. If False, all environments that were reset
            together end together.
        min_agents: Minimum number of agents.
        fully_observed: If True, :meth:`views` is implemented.
        state_names: Names of the attributes that hold the state, tensors ``[.., B]``.
        presets: Settings by preset name. The setting ``map`` accepts a preset name instead of a map.
        episode_outcomes: Names of the rates of :meth:`summarize` that are defined for whole episodes only, e.g. a mean
            time step within the episode. They are logged for the episodes that ended.
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
        """Initializes the attributes that all games share.

        Args:
            num_agents: N, number of agents.
            num_steps: Episode length, in steps.
            num_games: B, number of parallel environments.
            device: Device of all tensors.

        Raises:
            ValueError: If a number is out of range.
        """
        for name, value, minimum, maximum in (
            ("num_agents", num_agents, self.min_agents, MAX_AGENTS),
            ("num_steps", num_steps, 1, MAX_STEPS),
            ("num_games", num_games, 1, MAX_GAMES),
        ):
            if not minimum <= value <= maximum:
                raise ValueError(f"{name} is {value}; it must be from {minimum} to {maximum}")
        self.agents = tuple(f"player_{index}" for index in range(num_agents))
        self.horizon = num_steps
        self.num_games = num_games
        self.device = torch.device(device)
        self.generator = torch.Generator(device=self.device)
        self.generator.seed()
        self._steps = torch.zeros(num_games, dtype=torch.int32, device=self.device)

    def __repr__(self) -> str:
        """Returns the class and the sizes."""
        return (
            f"{type(self).__name__}(num_games={self.num_games}, num_agents={self.num_agents},"
            f" num_steps={self.horizon}, device='{self.device}')"
        )

    @property
    def num_agents(self) -> int:
        """Number of agents, N."""
        return len(self.agents)

    def reset(self, *, seed: int | None = None, where: Tensor | None = None) -> Tensor:
        """Starts new episodes.

        Args:
            seed: Seed of the environment's random generator. The same seed gives the same episode. If None, the
                generator continues.
            where: ``[B]`` bool, environments to reset. If None, all environments are reset.

        Returns:
            ``[B, N, *obs_shape]``, the observations of all environments.
        """
        if seed is not None:
            self.seed(seed)
        initial_state = {"_steps": torch.zeros_like(self._steps), **self._initial_state()}
        for name, initial in initial_state.items():
            if where is not None:
                initial = torch.where(where, initial, getattr(self, name))
            setattr(self, name, initial)
        return self._observe()

    def step(self, actions: Tensor) -> Step:
        """Steps all environments with one joint action each.

        Args:
            actions: ``[B, N]`` int64, actions in the action space.

        Returns:
            The observations, rewards, end flags and outcomes.

        Raises:
            ValueError: If the actions are not integers of that shape, or one of them is not in the action space. On a
                GPU the range is checked by an assertion on the device, because reading the values on the CPU would
                synchronize with the device in every step.
        """
        self._check_actions(actions)
        rewards, terminated, outcomes = self._play(actions)
        self._steps = self._steps + 1
        return Step(self._observe(), rewards, terminated, self._steps >= self.horizon, outcomes)

    def _check_actions(self, actions: Tensor) -> None:
        """Raises ValueError if actions have the wrong shape or dtype, or are not in the action space."""
        shape, count = (self.num_games, self.num_agents), int(self.action_space.n)
        if actions.shape != shape or actions.is_floating_point():
            raise ValueError(f"actions are {actions.dtype} {tuple(actions.shape)}; they must be torch.int64 {shape}")
        low, high = actions.aminmax()
        if actions.is_cuda:
            message = f"an action is not in {self.action_space} of {type(self).__name__}"
            torch._assert_async((low >= 0) & (high < count), message)
        elif low < 0 or high >= count:
            invalid_action = int(low) if low < 0 else int(high)
            raise ValueError(f"action {invalid_action} is not in {self.action_space} of {type(self).__name__}")

    def time_left(self) -> Tensor:
        """Returns the fraction of the episode that remains, ``[B]`` float32: 1 at the start, 0 at the horizon."""
        return 1.0 - self._steps / self.horizon

    def seed(self, seed: int) -> None:
        """Seeds the environment's own random generator. Global random states are not changed."""
        self.generator.manual_seed(seed)

    def get_state(self) -> dict[str, Tensor]:
        """Returns copies of all state tensors and of the state of the random generator."""
        state = {name: getattr(self, name).clone() for name in ("_steps", *self.state_names)}
        return {**state, "generator": self.generator.get_state()}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Restores a state that :meth:`get_state` returned."""
        for name in ("_steps", *self.state_names):
            setattr(self, name, state[name].to(self.device))
        self.generator.set_state(state["generator"])

    @abstractmethod
    def state(self) -> Tensor:
        """Returns the global state, e.g. for a centralized critic, ``[B, *state_shape]``."""

    def views(self, obs: Tensor) -> Tensor:
        """Derives the observations of all agents from the observation of each agent.

        Args:
            obs: ``[B, N, *obs_shape]``.

        Returns:
            ``[B, N, N, *obs_shape]``, indexed by ``[i, k]``: observation of the k-th agent after agent i, derived from
            the observation of agent i.

        Raises:
            NotImplementedError: If the game is not ``fully_observed``.
        """
        raise NotImplementedError(f"{type(self).__name__} is not fully observed")

    @abstractmethod
    def _initial_state(self) -> dict[str, Tensor]:
        """Returns the state tensors ``[.., B]`` of new episodes, by the names in ``state_names``."""

    @abstractmethod
    def _observe(self) -> Tensor:
        """Returns the observations of the current state, ``[B, N, *obs_shape]``."""

    @abstractmethod
    def _play(self, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Applies one joint action to the state. Returns rewards, terminated and outcomes as in :class:`Step`."""

    @abstractmethod
    def summarize(self, totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """Converts outcomes summed over steps to rates, elementwise.

        Args:
            totals: Outcomes summed over ``num_steps`` environment steps, all of one shape, e.g. ``[N]`` or ``[B, N]``.
            num_steps: Number of environment steps in the sum. For episodes of different lengths, a tensor ``[B, 1]``.

        Returns:
            Rates by metric name, of the same shape as ``totals``.
        """

    @abstractmethod
    def render_ansi(self, copy: int = 0) -> str:
        """Renders the current state of one environment as text."""

    @abstractmethod
    def render_rgb(self, copy: int = 0) -> np.ndarray:
        """Renders the current state of one environment as an image, ``[height, width, 3]`` uint8."""

    def _uniform(self, *shape: int, copies_last: bool = False) -> Tensor:
        """Samples random numbers in [0, 1), ``[B, *shape]`` or ``[*shape, B]``. Games draw no other random numbers."""
        size = (*shape, self.num_games) if copies_last else (self.num_games, *shape)
        return torch.rand(size, generator=self.generator, device=self.device)
