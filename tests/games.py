"""Games for tests."""

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


class Laps(BatchedGame):
    """Observations are ``[episodes, steps, environment] / 10``, so that no two are equal; rewards are zero."""

    state_names = ("_laps",)

    def __init__(self, *, num_steps=4, num_games=1, device="cpu"):
        super().__init__(num_agents=2, num_steps=num_steps, num_games=num_games, device=device)
        self.observation_space = gymnasium.spaces.Box(-1.0, 1e6, (3,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.state_space = self.observation_space
        self.action_names = ("first", "second")
        self.reward_range = (0.0, 0.0)
        self._laps = torch.zeros(num_games, dtype=torch.int64, device=self.device)

    def state(self):
        numbers = torch.arange(self.num_games, device=self.device)
        return torch.stack([self._laps, self._steps.long(), numbers], -1).float() / 10.0

    def _initial_state(self):
        return {"_laps": self._laps + 1}

    def _observe(self):
        return self.state()[:, None].expand(-1, 2, -1)

    def _play(self, actions):
        never = torch.zeros(self.num_games, dtype=torch.bool, device=self.device)
        return torch.zeros_like(actions, dtype=torch.float32), never, {}

    @staticmethod
    def summarize(totals, num_steps):
        return {}

    def render_ansi(self, copy=0):
        return str(int(self._laps[copy]))

    def render_rgb(self, copy=0):
        return np.zeros((1, 1, 3), np.uint8)


LAPS = GameSpec("laps_v0", "tests.games:Laps", "Episodes that are numbered.")


class Lengths(BatchedGame):
    """Episodes of environment b end after ``2 + b % 3`` steps; rewards are zero, whatever is played."""

    terminates_early = True
    state_names = ("_left",)

    def __init__(self, *, num_steps=8, num_games=1, device="cpu"):
        super().__init__(num_agents=2, num_steps=num_steps, num_games=num_games, device=device)
        self.observation_space = gymnasium.spaces.Box(0.0, 10.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.state_space = gymnasium.spaces.Discrete(5)
        self.action_names = ("first", "second")
        self.reward_range = (0.0, 0.0)
        self.payoffs = torch.zeros(2, 2, 2, device=self.device)
        self._left = torch.zeros(num_games, dtype=torch.int64, device=self.device)

    def state(self):
        return self._left

    def _initial_state(self):
        return {"_left": 2 + torch.arange(self.num_games, device=self.device) % 3}

    def _observe(self):
        return self._left[:, None, None].expand(-1, 2, 1).float()

    def _play(self, actions):
        self._left = self._left - 1
        return torch.zeros_like(actions, dtype=torch.float32), self._left <= 0, {}

    @staticmethod
    def summarize(totals, num_steps):
        return {}

    def render_ansi(self, copy=0):
        return str(int(self._left[copy]))

    def render_rgb(self, copy=0):
        return np.zeros((1, 1, 3), np.uint8)


LENGTHS = GameSpec("lengths_v0", "tests.games:Lengths", "Environments that end at different steps.")
