"""A game: two players draw water or leave it."""

from typing import ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor

import social_dilemmas
from social_dilemmas.batched_game import BatchedGame
from social_dilemmas.registry import GameSpec


class Well(BatchedGame):
    """Two players draw water or leave it; the well refills to twice what is left, and overflows at eight."""

    state_names: ClassVar[tuple[str, ...]] = ("_water",)

    def __init__(self, *, num_steps: int = 16, num_games: int = 1, device: str = "cpu") -> None:
        """Fills the wells."""
        super().__init__(num_agents=2, num_steps=num_steps, num_games=num_games, device=device)
        self.action_names = ("leave", "draw")
        self.action_space = gymnasium.spaces.Discrete(2)
        self.observation_space = self.state_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.reward_range = (0.0, 2.0)
        self._water = torch.zeros(num_games, device=self.device)

    def _initial_state(self) -> dict[str, Tensor]:
        return {"_water": torch.full_like(self._water, 8.0)}

    def _observe(self) -> Tensor:
        return (self._water / 8.0)[:, None, None].expand(-1, 2, 1).clone()

    def state(self) -> Tensor:
        """Returns the joint state, ``[B, 1]``."""
        return (self._water / 8.0)[:, None]

    def _play(self, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        share = torch.minimum(self._water / actions.sum(1).clamp(min=1), torch.tensor(2.0))
        rewards = actions * share[:, None]
        self._water = (2.0 * (self._water - rewards.sum(1))).clamp(0.0, 8.0)
        return rewards, torch.zeros_like(self._water, dtype=torch.bool), {"drew": actions.float()}

    @staticmethod
    def summarize(totals: dict[str, Tensor], num_steps: float) -> dict[str, Tensor]:
        """Returns the rate at which each agent draws water."""
        return {"draw_rate": totals["drew"] / num_steps}

    def render_ansi(self, copy: int = 0) -> str:
        """Returns the amount of water as text."""
        return f"{float(self._water[copy]):.1f}"

    def render_rgb(self, copy: int = 0) -> np.ndarray:
        """Returns an image of the well, ``[height, width, 3]``."""
        picture = np.full((64, 48, 3), 240, np.uint8)
        picture[64 - int(8 * self._water[copy]) :] = (52, 104, 192)
        return picture


social_dilemmas.register(GameSpec("shared_well_v0", f"{__name__}:Well", "A well for two."))
