"""Batched games for tests."""

import gymnasium
import numpy as np
import torch

from social_dilemmas.batched_game import BatchedGame
from social_dilemmas.registry import GameSpec


class Countdown(BatchedGame):
    """Game that counts down from a random number, faster if player 0 hurries. The observation is the current count."""

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


COUNTDOWN = GameSpec("countdown_v0", "tests.helpers.games:Countdown", "Episodes of random length.")


class Clock(BatchedGame):
    """Game that ignores actions. Player 0 has an event in every step, player 1 in every second step."""

    state_names = ("_unused",)
    episode_outcomes = frozenset({"mean_step"})

    def __init__(self, *, num_steps=8, num_games=1, device="cpu"):
        super().__init__(num_agents=2, num_steps=num_steps, num_games=num_games, device=device)
        self.observation_space = self.state_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.action_names = ("wait", "hurry")
        self.reward_range = (0.0, 1.0)
        self._unused = torch.zeros(num_games, device=self.device)

    def state(self):
        return self._unused[:, None]

    def _initial_state(self):
        return {"_unused": torch.zeros_like(self._unused)}

    def _observe(self):
        return self._unused[:, None, None].expand(-1, 2, 1).clone()

    def _play(self, actions):
        step = (self._steps + 1)[:, None].float()
        events = torch.cat([torch.ones_like(step), (step % 2 == 0).float()], 1)
        ended = torch.zeros_like(self._unused, dtype=torch.bool)
        return events, ended, {"events": events, "event_steps": events * step}

    @staticmethod
    def summarize(totals, num_steps):
        return {
            "events_per_step": totals["events"] / num_steps,
            "mean_step": totals["event_steps"] / totals["events"].clamp(min=1.0),
        }

    def render_ansi(self, copy=0):
        return str(int(self._steps[copy]))

    def render_rgb(self, copy=0):
        return np.zeros((1, 1, 3), np.uint8)


CLOCK = GameSpec("clock_v0", "tests.helpers.games:Clock", "Events at known steps.")


class Laps(BatchedGame):
    """Game with observations ``[episodes, steps, environment] / 10``, no two of which are equal. Rewards are zero."""

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
        ended = torch.zeros(self.num_games, dtype=torch.bool, device=self.device)
        return torch.zeros_like(actions, dtype=torch.float32), ended, {}

    @staticmethod
    def summarize(totals, num_steps):
        return {}

    def render_ansi(self, copy=0):
        return str(int(self._laps[copy]))

    def render_rgb(self, copy=0):
        return np.zeros((1, 1, 3), np.uint8)


LAPS = GameSpec("laps_v0", "tests.helpers.games:Laps", "Numbered episodes.")


class Lengths(BatchedGame):
    """Game in which episodes of environment b end after ``2 + b % 3`` steps. Rewards are zero for all actions."""

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


LENGTHS = GameSpec("lengths_v0", "tests.helpers.games:Lengths", "Episode lengths that depend on the environment.")
