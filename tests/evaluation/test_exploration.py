"""Policies are evaluated, and play as frozen players, without the exploration of their training."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.algorithms.dqn import DQNConfig
from ray.tune.registry import register_env

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.algorithms.lio import LIOConfig
from rllib_reciprocator.evaluation import open_evaluator
from rllib_reciprocator.evaluation.tournament import enter, hold, tournament

# The policy has a logit of 1 in all states, and so cooperates with this probability; in training it explores always.
COOPERATION = 1 / (1 + np.exp(1))
POLICY = {"head_fcnet_kernel_initializer": "zeros_", "head_fcnet_bias_initializer": "zeros_", "fcnet_hiddens": [4]}
PLAYERS = ["pg", "ac", "lio", "lio_ac"]


def defect_more(learner):
    for agent in ("player_0", "player_1"):
        torch.nn.init.ones_(learner.module[agent].unwrapped().actor.head.bias)


@pytest.fixture(scope="module")
def exploring(ray_cluster, tmp_path_factory):
    """Checkpoints of players that explore with probability 1, by player; they learn nothing."""
    folder, checkpoints = tmp_path_factory.mktemp("exploring"), {}

    def checkpoint(player):
        if player not in checkpoints:
            config = LIOConfig().environment("ipd_v0", env_config={"num_steps": 10}).players({"player_*": player})
            config.training(lr=0.0, epsilon=1.0, updates_per_iteration=1).rl_module(model_config=POLICY)
            config.env_runners(num_envs_per_env_runner=64).evaluation(evaluation_interval=1).debugging(seed=1)
            algo = config.build_algo()
            algo.learner_group.foreach_learner(defect_more)
            result = algo.train()
            path = algo.save_to_path(folder / player)
            algo.stop()
            checkpoints[player] = path, result
        return checkpoints[player]

    return checkpoint


def cooperation(players):
    return [row["cooperation_rate"]["mean"] for row in players.values()]


@pytest.mark.parametrize("player", PLAYERS)
def test_evaluations_sample_from_the_policy_itself(exploring, player):
    path, result = exploring(player)
    assert result["env_runners"]["outcomes"]["player_0"]["cooperation_rate"] == pytest.approx(0.5, abs=0.05)
    evaluator = open_evaluator(path, seed=1)
    assert cooperation(evaluator.evaluate(2000)["players"]) == pytest.approx([COOPERATION] * 2, abs=0.02)
    trace = evaluator.trace(500)
    assert (trace["action/player_0"] == "cooperate").mean() == pytest.approx(COOPERATION, abs=0.03)
    assert np.allclose(evaluator.policy(), COOPERATION, atol=1e-6)
    assert cooperation(open_evaluator(path, seed=1, explore=False).evaluate(10)["players"]) == [0.0, 0.0]


def test_evaluations_during_training_sample_from_the_policy_itself(exploring):
    _, result = exploring("lio")
    evaluated = result["evaluation"]["env_runners"]["outcomes"]
    assert evaluated["player_0"]["cooperation_rate"] == pytest.approx(COOPERATION, abs=0.05)


@pytest.mark.parametrize("player", ["ac", "lio"])
def test_frozen_players_sample_from_the_policy_itself(exploring, player, tmp_path):
    path, _ = exploring(player)
    config = ReciprocatorConfig().environment("ipd_v0", env_config={"num_steps": 10}).debugging(seed=1)
    config.players({"player_0": "ppo", "player_1": f"checkpoint/{path}#player_1"})
    algo = config.env_runners(num_envs_per_env_runner=512).build_algo()
    result = algo.train()
    assert result["env_runners"]["outcomes"]["player_1"]["cooperation_rate"] == pytest.approx(COOPERATION, abs=0.02)
    again = algo.save_to_path(tmp_path / "second")
    algo.stop()
    assert cooperation(open_evaluator(again, seed=1).evaluate(1000)["players"])[1] == pytest.approx(
        COOPERATION, abs=0.02
    )


def test_tournaments_sample_from_the_policy_itself(exploring):
    path, _ = exploring("pg")
    results = hold(tournament(enter([f"trained={path}#player_0", "scripted/random"]), games=1000))
    rates = results[results["entrant"] == "trained"].groupby("turn")["cooperation_rate"].mean()
    assert list(rates) == pytest.approx([COOPERATION] * 2, abs=0.02)


class FirstActionIsWorthMore(gym.Env):
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, config=None):
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), float(action), self.steps == 10, False, {}


def test_q_networks_of_rllib_are_evaluated_without_exploration(ray_cluster, tmp_path):
    """In every episode they take the same action; with the first epsilon of their schedule, 1, any."""
    register_env("first_action_is_worth_more", FirstActionIsWorthMore)
    config = DQNConfig().environment("first_action_is_worth_more").debugging(seed=1)
    algo = config.env_runners(num_env_runners=0).build_algo()
    path = algo.save_to_path(tmp_path / "dqn")
    algo.stop()
    returns = open_evaluator(path, seed=1).evaluate(20)["players"]["all"]["return"]
    assert returns["ci95"] == 0.0
    assert returns["mean"] in (0.0, 10.0)
