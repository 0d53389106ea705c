"""PettingZoo ``ParallelEnv`` for a single environment of any batched game."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from pettingzoo import ParallelEnv

from social_dilemmas.batched_game import BatchedGame

RENDER_MODES = ("ansi", "rgb_array", "human")
_PER_SECOND = 4


class GameParallelEnv(ParallelEnv):
    """PettingZoo wrapper of a :class:`BatchedGame` with one environment, with numpy inputs and outputs.

    ``infos[agent]["outcomes"]`` contains the outcomes of the agent in the step.

    Attributes:
        horizon: Maximum episode length, in steps.
        action_names: Name of each action.
        payoffs: Payoff table if rewards depend on the joint action only, else None.
        summarize: Method :meth:`BatchedGame.summarize` of the game, for outcomes summed over steps.
        episode_outcomes: Names of the rates that are defined for whole episodes only.
    """

    def __init__(self, game: BatchedGame, name: str, render_mode: str | None = None) -> None:
        """Wraps a game.

        Args:
            game: The game, with ``num_games=1``.
            name: Id of the game, e.g. ``coins_v0``.
            render_mode: ``"ansi"``, ``"rgb_array"``, ``"human"`` for a window that shows every step (requires pygame),
                or None.

        Raises:
            ValueError: If the game has more than one environment, or the render mode is unknown.
            ImportError: If the render mode is ``"human"`` and pygame is not installed.
        """
        if game.num_games != 1:
            raise ValueError(f"a ParallelEnv wraps one environment; set num_games to 1 instead of {game.num_games}")
        if render_mode not in (None, *RENDER_MODES):
            raise ValueError(f"render_mode {render_mode!r} is not one of {', '.join(RENDER_MODES)}")
        modes = list(RENDER_MODES)
        self.metadata = {"name": name, "render_modes": modes, "is_parallelizable": True, "render_fps": _PER_SECOND}
        self.render_mode = render_mode
        self.possible_agents = list(game.agents)
        self.agents: list[str] = []
        self.state_space = game.state_space
        self.horizon = game.horizon
        self.action_names = game.action_names
        self.payoffs = game.payoffs
        self.summarize = game.summarize
        self.episode_outcomes = game.episode_outcomes
        self._game = game
        self._window = _Window(name, _PER_SECOND) if render_mode == "human" else None

    def observation_space(self, agent: str) -> gymnasium.Space:
        """Returns the observation space of an agent."""
        return self._game.observation_space

    def action_space(self, agent: str) -> gymnasium.spaces.Discrete:
        """Returns the action space of an agent."""
        return self._game.action_space

    def reset(
        self, seed: int | None = None, options: dict | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
        """Starts a new episode. The same seed gives the same episode."""
        obs = self._game.reset(seed=seed)
        self.agents = list(self.possible_agents)
        self._show()
        return self._split(obs), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> tuple[dict, dict, dict, dict, dict]:
        """Steps the environment with an action for every agent.

        Raises:
            ValueError: If the action of an agent is missing, or not in its action space.
        """
        for agent in self.agents:
            if agent not in actions:
                raise ValueError(f"actions must have an entry for every agent, but has none for {agent}")
            if not self._game.action_space.contains(actions[agent]):
                raise ValueError(f"action {actions[agent]!r} of {agent} is not in {self._game.action_space}")
        joint = torch.tensor([[int(actions[agent]) for agent in self.agents]], device=self._game.device)
        step = self._game.step(joint)
        agents = self.agents
        terminated, truncated = bool(step.terminated[0]), bool(step.truncated[0])
        rewards = dict(zip(agents, step.rewards[0].tolist(), strict=True))
        infos: dict[str, dict[str, Any]] = {
            agent: {"outcomes": {name: float(values[0, index]) for name, values in step.outcomes.items()}}
            for index, agent in enumerate(agents)
        }
        result = (
            self._split(step.obs),
            rewards,
            dict.fromkeys(agents, terminated),
            dict.fromkeys(agents, truncated),
            infos,
        )
        if terminated or truncated:
            self.agents = []
        self._show()
        return result

    def state(self) -> np.ndarray:
        """Returns the global state, an element of ``state_space``."""
        return self._game.state()[0].cpu().numpy()

    def render(self) -> str | np.ndarray | None:
        """Renders the current state as text or image. Returns None in mode ``human``, which renders in every step."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() requires render_mode='ansi', 'rgb_array' or 'human'")
            return None
        if self._window is not None:
            return None
        return self._game.render_ansi() if self.render_mode == "ansi" else self._game.render_rgb()

    def close(self) -> None:
        """Closes the window if it is open."""
        if self._window is not None:
            self._window.close()

    def _show(self) -> None:
        if self._window is not None:
            self._window.show(self._game.render_rgb())

    def _split(self, obs: torch.Tensor) -> dict[str, np.ndarray]:
        return dict(zip(self.possible_agents, obs[0].cpu().numpy(), strict=True))


class _Window:
    """Window that shows images at a fixed frame rate."""

    def __init__(self, title: str, frames_per_second: int) -> None:
        """Imports pygame. The window opens with the first image.

        Raises:
            ImportError: If pygame is not installed.
        """
        try:
            import pygame
        except ImportError as error:
            raise ImportError("render_mode='human' requires pygame; run pip install pygame") from error
        self._pygame, self._title, self._frames_per_second = pygame, title, frames_per_second
        self._screen: Any = None

    def show(self, picture: np.ndarray) -> None:
        """Shows an image, ``[height, width, 3]`` uint8, and waits until the next frame is due."""
        pygame = self._pygame
        if self._screen is None:
            pygame.init()
            self._screen = pygame.display.set_mode(picture.shape[1::-1])
            pygame.display.set_caption(self._title)
            self._step_count = pygame.time.Clock()
        pygame.event.pump()
        self._screen.blit(pygame.surfarray.make_surface(picture.swapaxes(0, 1)), (0, 0))
        pygame.display.flip()
        self._step_count.tick(self._frames_per_second)

    def close(self) -> None:
        """Closes the window."""
        if self._screen is not None:
            self._pygame.display.quit()
            self._screen = None
