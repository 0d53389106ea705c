"""Evaluations with RLlib's env runners do not prefer short episodes."""

import os
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune.registry import register_env

from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.evaluation import open_evaluator
from rllib_reciprocator.utils.checkpoints import TRUST

SHORT, LONG = 2, 60


class Lengths:
    """Draws the episode lengths of an environment, 2 or 60 steps with equal probability, and records them."""

    instances: ClassVar[list] = []

    def __init__(self):
        self.random = np.random.default_rng([5, len(self.instances)])
        self.left, self.drawn = 0, []
        self.instances.append(self)

    def start(self):
        if self.left:
            # RLlib resets an environment a second time before the first step.
            self.drawn.pop()
        self.left = int(self.random.choice([SHORT, LONG]))
        self.drawn.append(self.left)

    def step(self):
        self.left -= 1
        return self.left == 0


class RandomLengths(MultiAgentEnv):
    """Environment of two agents with a reward of 1 per step and random episode lengths."""

    def __init__(self, config):
        super().__init__()
        self.possible_agents = self.agents = ["a", "b"]
        self.observation_spaces = {agent: gym.spaces.Box(0, 1, (1,), np.float32) for agent in self.agents}
        self.action_spaces = {agent: gym.spaces.Discrete(2) for agent in self.agents}
        self.lengths = Lengths()

    def observe(self):
        return {agent: np.zeros(1, np.float32) for agent in self.agents}

    def reset(self, *, seed=None, options=None):
        self.lengths.start()
        return self.observe(), {}

    def step(self, actions):
        return self.observe(), {"a": 1.0, "b": 1.0}, {"__all__": self.lengths.step()}, {"__all__": False}, {}


class RandomLengthsOfOneAgent(gym.Env):
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, config):
        self.lengths = Lengths()

    def reset(self, *, seed=None, options=None):
        self.lengths.start()
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, self.lengths.step(), False, {}


def first_lengths():
    return [lengths.drawn[0] for lengths in Lengths.instances if lengths.drawn]


def several_agents():
    register_env("random_lengths", RandomLengths)
    config = algorithm_class("PPO").get_default_config().environment("random_lengths")
    config.multi_agent(policies=["a", "b"], policy_mapping_fn=policy_of)
    return config


def policy_of(agent, episode=None, **kwargs):
    return agent


def one_agent():
    register_env("random_lengths_of_one_agent", RandomLengthsOfOneAgent)
    return PPOConfig().environment("random_lengths_of_one_agent")


def save_checkpoint(config, folder):
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=1).debugging(seed=1)
    algo = config.rl_module(model_config={"fcnet_hiddens": [4]}).build_algo()
    path = algo.save_to_path(folder)
    algo.stop()
    return path


@pytest.fixture(scope="module")
def checkpoints(ray_cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("random_lengths")
    os.environ[TRUST] = "1"
    yield {
        "a": save_checkpoint(several_agents(), folder / "several"),
        "all": save_checkpoint(one_agent(), folder / "one"),
    }
    del os.environ[TRUST]


@pytest.fixture(autouse=True)
def _no_environments(monkeypatch):
    monkeypatch.setattr(Lengths, "instances", [])


@pytest.mark.parametrize("agent", ["a", "all"])
def test_episodes_that_start_first_are_evaluated(checkpoints, agent):
    """Evaluates the first episode of each of 16 parallel environments, not the 16 episodes that end first.

    Most of the latter would be short.
    """
    report = open_evaluator(checkpoints[agent], seed=1).evaluate(16)
    lengths = first_lengths()
    assert len(lengths) == 16
    assert 4 <= lengths.count(LONG) <= 12
    assert report["episodes"] == 16
    assert report["players"][agent]["return"]["mean"] == pytest.approx(np.mean(lengths))


def test_more_episodes_than_environments(checkpoints):
    """The next four episodes start in the first four environments whose first episode was short."""
    report = open_evaluator(checkpoints["a"], seed=1).evaluate(20)
    restarts = [lengths.drawn[1] for lengths in Lengths.instances if lengths.drawn[:1] == [SHORT]]
    expected = np.mean([*first_lengths(), *restarts[:4]])
    assert report["players"]["a"]["return"]["mean"] == pytest.approx(expected)


def test_traces_have_the_same_episodes(checkpoints):
    trace = open_evaluator(checkpoints["a"], seed=1).trace(16)
    assert trace.groupby("episode").size().tolist() == first_lengths()
    for _, rows in trace.groupby("episode"):
        assert rows["step"].tolist() == list(range(len(rows)))
