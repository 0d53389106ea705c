"""Environments, modules and policy mappings for tests with RLlib's env runners."""

import os

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.env.multi_agent_env import MultiAgentEnv


class ComeAndGo(MultiAgentEnv):
    """Environment in which ``early`` terminates after three steps and ``late`` enters after two.

    All agents observe the time. Rewards are 1 for each other agent that takes action 2, plus 0.1 times the time.
    """

    def __init__(self, config=None):
        super().__init__()
        self.possible_agents = ["stays", "early", "late"]
        self.agents = self.possible_agents
        self.observation_spaces = {a: gym.spaces.Box(-1, 100, (1,), np.float32) for a in self.possible_agents}
        self.action_spaces = {a: gym.spaces.Discrete(3) for a in self.possible_agents}
        self.length = (config or {}).get("length", 7)
        self.poison = (config or {}).get("poison")
        self.breaks = (config or {}).get("breaks")
        self.flag = (config or {}).get("flag")

    def _present_agents(self):
        return ["stays"] + ["early"] * (self.t < 3) + ["late"] * (self.t >= 2)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return {agent: np.zeros(1, np.float32) for agent in self._present_agents()}, {}

    def step(self, actions):
        before = self._present_agents()
        if self.t == self.breaks and not (self.flag and os.path.exists(self.flag)):
            if self.flag:
                open(self.flag, "w").close()
            raise RuntimeError("the simulator broke")
        self.t += 1
        obs = {agent: np.full(1, self.t, np.float32) for agent in {*before, *self._present_agents()}}
        rewards = {a: float(sum(actions[o] == 2 for o in before if o != a)) + 0.1 * self.t for a in before}
        if self.t == self.poison:
            rewards["stays"] = float("nan")
        terminateds = {"early": True} if self.t == 3 else {}
        return obs, rewards, {**terminateds, "__all__": False}, {"__all__": self.t >= self.length}, {}


class Mixed(MultiAgentEnv):
    """Environment whose agents have different spaces.

    Observations are an image, a dict and a discrete number; actions are continuous, multi-discrete and discrete.
    """

    def __init__(self, config=None):
        super().__init__()
        self.possible_agents = ["camera", "clerk", "clock"]
        self.agents = self.possible_agents
        self.observation_spaces = {
            "camera": gym.spaces.Box(0, 1, (84, 84, 3), np.float32),
            "clerk": gym.spaces.Dict({"x": gym.spaces.Box(-1, 1, (2,), np.float32), "kind": gym.spaces.Discrete(3)}),
            "clock": gym.spaces.Discrete(6),
        }
        self.action_spaces = {
            "camera": gym.spaces.Box(-1, 1, (2,), np.float32),
            "clerk": gym.spaces.MultiDiscrete([2, 3]),
            "clock": gym.spaces.Discrete(4),
        }

    def _obs(self):
        return {agent: space.sample() for agent, space in self.observation_spaces.items()}

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self._obs(), {}

    def step(self, actions):
        self.t += 1
        rewards = {"camera": float(actions["clock"]), "clerk": float(actions["camera"][0]), "clock": 1.0}
        return self._obs(), rewards, {"__all__": False}, {"__all__": self.t >= 5}, {}


def own_policy(agent, episode=None, **kwargs):
    return agent


def team_policy(agent, episode=None, **kwargs):
    return "late" if agent == "late" else "team"


class TinyModule(TorchRLModule, ValueFunctionAPI):
    """User-defined module: one linear layer for logits and value."""

    def setup(self):
        self.layer = torch.nn.Linear(self.observation_space.shape[0], int(self.action_space.n) + 1)

    def _forward(self, batch, **kwargs):
        return {Columns.ACTION_DIST_INPUTS: self.layer(batch[Columns.OBS])[:, 1:]}

    def compute_values(self, batch, embeddings=None):
        return self.layer(batch[Columns.OBS])[:, 0]


class ActionsOnlyModule(TinyModule):
    """User-defined module that samples its actions and does not return their distribution."""

    def _forward_exploration(self, batch, **kwargs):
        logits = self._forward(batch)[Columns.ACTION_DIST_INPUTS]
        return {Columns.ACTIONS: torch.distributions.Categorical(logits=logits).sample()}


class SamplingModule(TinyModule):
    """User-defined module that always takes the first action and returns a uniform distribution."""

    def _forward_exploration(self, batch, **kwargs):
        logits = torch.zeros_like(self._forward(batch)[Columns.ACTION_DIST_INPUTS])
        return {Columns.ACTION_DIST_INPUTS: logits, Columns.ACTIONS: torch.zeros(len(logits), dtype=torch.int64)}


def shared_policy(agent, episode=None, **kwargs):
    return "p0"


class TwoAgents(MultiAgentEnv):
    """Environment of five steps in which ``a`` and ``b`` each get 1 if the other takes the second of two actions."""

    def __init__(self, config=None):
        super().__init__()
        self.possible_agents = self.agents = ["a", "b"]
        self.observation_spaces = {agent: gym.spaces.Box(0, 5, (1,), np.float32) for agent in self.agents}
        self.action_spaces = {agent: gym.spaces.Discrete(2) for agent in self.agents}

    def _observations(self):
        return {agent: np.full(1, self.t, np.float32) for agent in self.agents}

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self._observations(), {}

    def step(self, actions):
        self.t += 1
        rewards = {"a": float(actions["b"]), "b": float(actions["a"])}
        return self._observations(), rewards, {"__all__": False}, {"__all__": self.t == 5}, {}
