"""One copy of any batched game as a PettingZoo ``ParallelEnv``."""

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
    """A :class:`BatchedGame` with one copy, numpy in and out.

    ``infos[agent]["outcomes"]`` holds the step's outcomes of that agent.

    Attributes:
        horizon: Steps of an episode, at most.
        action_names: What the actions are called.
        payoffs: The payoff table of a game in which rewards follow from the joint action alone, else None.
        summarize: The game's :meth:`BatchedGame.summarize`, for outcomes summed over steps.
        episode_outcomes: Names of its rates that are defined for whole episodes alone.
    """

    def __init__(self, game: BatchedGame, name: str, render_mode: str | None = None) -> None:
        """Wraps the game.

        Args:
            game: The game, with ``num_games=1``.
            name: The game's id, as ``coins_v0``.
            render_mode: ``"ansi"``, ``"rgb_array"``, ``"human"`` for a window that shows every step (needs pygame), or
                None.

        Raises:
            ValueError: If the game has several copies, or the render mode is not known.
            ImportError: If there is no pygame for a window.
        """
        if game.num_games != 1:
            raise ValueError(f"a ParallelEnv plays one game; this one has num_games={game.num_games}")
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
        """The space of one agent's observations."""
        return self._game.observation_space

    def action_space(self, agent: str) -> gymnasium.spaces.Discrete:
        """The space of one agent's actions."""
        return self._game.action_space

    def reset(
        self, seed: int | None = None, options: dict | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
        """Starts an episode; the same seed gives the same one."""
        obs = self._game.reset(seed=seed)
        self.agents = list(self.possible_agents)
        self._show()
        return self._split(obs), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> tuple[dict, dict, dict, dict, dict]:
        """Plays one joint action, given for every agent.

        Raises:
            ValueError: If an agent's action is missing, or not in its action space.
        """
        for agent in self.agents:
            if agent not in actions:
                raise ValueError(f"there is no action for {agent}")
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
        """The joint state, as in the game's ``state_space``."""
        return self._game.state()[0].cpu().numpy()

    def render(self) -> str | np.ndarray | None:
        """The present state, as text or as an image; where there is a window it shows every step by itself."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs render_mode='ansi', 'rgb_array' or 'human'")
            return None
        if self._window is not None:
            return None
        return self._game.render_ansi() if self.render_mode == "ansi" else self._game.render_rgb()

    def close(self) -> None:
        """Closes the window, if there is one."""
        if self._window is not None:
            self._window.close()

    def _show(self) -> None:
        if self._window is not None:
            self._window.show(self._game.render_rgb())

    def _split(self, obs: torch.Tensor) -> dict[str, np.ndarray]:
        return dict(zip(self.possible_agents, obs[0].cpu().numpy(), strict=True))


class _Window:
    """A window that shows pictures, so many a second."""

    def __init__(self, title: str, frames_per_second: int) -> None:
        """Imports pygame; the window opens with the first picture."""
        try:
            import pygame
        except ImportError as error:
            raise ImportError("render_mode='human' needs pygame: pip install pygame") from error
        self._pygame, self._title, self._frames_per_second = pygame, title, frames_per_second
        self._screen: Any = None

    def show(self, picture: np.ndarray) -> None:
        """Shows a picture, ``[height, width, 3]`` uint8, and waits for the next one's time."""
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
