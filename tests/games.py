"""A game for tests: copies end at different steps, by their own rules."""

import gymnasium
import numpy as np
import torch

from social_dilemmas.batched_game import BatchedGame
from social_dilemmas.registry import GameSpec


class Countdown(BatchedGame):
    """Each copy counts down from a random number; player 0 may hurry it. The observation is what is left."""

    terminates_early = True
    state_names = ("_left",)

    def __init__(self, *, num_steps=8, num_games=1, device="cpu"):
        super().__init__(num_agents=2, num_steps=num_steps, num_games=num_games, device=device)
        self.observation_space = gymnasium.spaces.Box(-100.0, 100.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.state_space = self.observation_space
        self.action_names = ("wait", "hurry")
        self.reward_range = (0.0, 1.0)
        self._left = torch.zeros(num_games, dtype=torch.int64, device=self.device)

    def state(self):
        return self._left[:, None].float()

    def _initial_state(self):
        return {"_left": 2 + (self._uniform() * 10).long()}

    def _observe(self):
        return self._left[:, None, None].expand(-1, 2, 1).float()

    def _play(self, actions):
        self._left = self._left - 1 - actions[:, 0]
        return actions.float(), self._left <= 0, {"hurried": actions.float()}

    @staticmethod
    def summarize(totals, num_steps):
        return {"hurry_rate": totals["hurried"] / num_steps}

    def render_ansi(self, copy=0):
        return str(int(self._left[copy]))

    def render_rgb(self, copy=0):
        return np.zeros((1, 1, 3), np.uint8)


COUNTDOWN = GameSpec("countdown_v0", "tests.games:Countdown", "Copies that end at different steps.")
