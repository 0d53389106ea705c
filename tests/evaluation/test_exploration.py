"""Evaluated and frozen policies do not use the epsilon exploration of their training."""

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

# All policies have a logit of 1 for defecting in all states and cooperate with this probability. They are trained with
# an epsilon of 1.
COOPERATION = 1 / (1 + np.exp(1))
POLICY = {"head_fcnet_kernel_initializer": "zeros_", "head_fcnet_bias_initializer": "zeros_", "fcnet_hiddens": [4]}
PLAYERS = ["pg", "ac", "lio", "lio_ac"]


def set_policy_biases(learner):
    for agent in ("player_0", "player_1"):
        torch.nn.init.ones_(learner.module[agent].unwrapped().actor.head.bias)


@pytest.fixture(scope="module")
def exploring_checkpoint(ray_cluster, tmp_path_factory):
    """Returns a function that builds checkpoints by player, with an epsilon of 1 and a learning rate of 0."""
    folder, checkpoints = tmp_path_factory.mktemp("exploring"), {}

    def checkpoint(player):
        if player not in checkpoints:
            config = LIOConfig().environment("ipd_v0", env_config={"num_steps": 10}).players({"player_*": player})
            config.training(lr=0.0, epsilon=1.0, updates_per_iteration=1).rl_module(model_config=POLICY)
            config.env_runners(num_envs_per_env_runner=64).evaluation(evaluation_interval=1).debugging(seed=1)
            algo = config.build_algo()
            algo.learner_group.foreach_learner(set_policy_biases)
            result = algo.train()
            path = algo.save_to_path(folder / player)
            algo.stop()
            checkpoints[player] = path, result
        return checkpoints[player]

    return checkpoint


def cooperation(players):
    return [row["cooperation_rate"]["mean"] for row in players.values()]


@pytest.mark.parametrize("player", PLAYERS)
def test_evaluations_do_not_explore(exploring_checkpoint, player):
    path, result = exploring_checkpoint(player)
    assert result["env_runners"]["outcomes"]["player_0"]["cooperation_rate"] == pytest.approx(0.5, abs=0.05)
    evaluator = open_evaluator(path, seed=1)
    assert cooperation(evaluator.evaluate(2000)["players"]) == pytest.approx([COOPERATION] * 2, abs=0.02)
    trace = evaluator.trace(500)
    assert (trace["action/player_0"] == "cooperate").mean() == pytest.approx(COOPERATION, abs=0.03)
    assert np.allclose(evaluator.policy(), COOPERATION, atol=1e-6)
    assert cooperation(open_evaluator(path, seed=1, explore=False).evaluate(10)["players"]) == [0.0, 0.0]


def test_evaluations_during_training_do_not_explore(exploring_checkpoint):
    _, result = exploring_checkpoint("lio")
    outcomes = result["evaluation"]["env_runners"]["outcomes"]
    assert outcomes["player_0"]["cooperation_rate"] == pytest.approx(COOPERATION, abs=0.05)


@pytest.mark.parametrize("player", ["ac", "lio"])
def test_frozen_policies_do_not_explore(exploring_checkpoint, player, tmp_path):
    path, _ = exploring_checkpoint(player)
    config = ReciprocatorConfig().environment("ipd_v0", env_config={"num_steps": 10}).debugging(seed=1)
    config.players({"player_0": "ppo", "player_1": f"checkpoint/{path}#player_1"})
    algo = config.env_runners(num_envs_per_env_runner=512).build_algo()
    result = algo.train()
    assert result["env_runners"]["outcomes"]["player_1"]["cooperation_rate"] == pytest.approx(COOPERATION, abs=0.02)
    second_path = algo.save_to_path(tmp_path / "second")
    algo.stop()
    assert cooperation(open_evaluator(second_path, seed=1).evaluate(1000)["players"])[1] == pytest.approx(
        COOPERATION, abs=0.02
    )


def test_tournaments_do_not_explore(exploring_checkpoint):
    path, _ = exploring_checkpoint("pg")
    results = hold(tournament(enter([f"trained={path}#player_0", "scripted/random"]), games=1000))
    rates = results[results["entrant"] == "trained"].groupby("turn")["cooperation_rate"].mean()
    assert list(rates) == pytest.approx([COOPERATION] * 2, abs=0.02)


class RewardEqualsAction(gym.Env):
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
    """Evaluated policies take the same action in all steps; with the initial epsilon of 1, actions would be random."""
    register_env("reward_equals_action", RewardEqualsAction)
    config = DQNConfig().environment("reward_equals_action").debugging(seed=1)
    algo = config.env_runners(num_env_runners=0).build_algo()
    path = algo.save_to_path(tmp_path / "dqn")
    algo.stop()
    returns = open_evaluator(path, seed=1).evaluate(20)["players"]["all"]["return"]
    assert returns["ci95"] == 0.0
    assert returns["mean"] in (0.0, 10.0)
