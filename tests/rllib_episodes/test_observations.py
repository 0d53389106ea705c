"""Tests of training and evaluation with all kinds of observations and with action masks."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune.registry import register_env

from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.evaluation import open_evaluator
from rllib_reciprocator.models.action_masks import mask_start, masked
from rllib_reciprocator.rllib_episodes.encoding import encode, encoded_size, flat_space

MIXED = spaces.Dict(
    {"what": spaces.Discrete(3), "rest": spaces.Tuple([spaces.Box(0, 1, (2, 2)), spaces.MultiDiscrete([2, 3])])}
)


class RandomObservations(MultiAgentEnv):
    """Environment of ten steps in which two agents observe samples of a space."""

    def __init__(self, config):
        super().__init__()
        self.space = config["space"]
        self.possible_agents = self.agents = ["a", "b"]
        self.observation_spaces = dict.fromkeys(self.agents, self.space)
        self.action_spaces = dict.fromkeys(self.agents, spaces.Discrete(3))

    def _observations(self):
        return {agent: self.space.sample() for agent in self.agents}

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self._observations(), {}

    def step(self, actions):
        self.t += 1
        rewards = {agent: float(action) for agent, action in actions.items()}
        return self._observations(), rewards, {"__all__": self.t >= 10}, {"__all__": False}, {}


register_env("seeing", RandomObservations)


def build_algorithm(algorithm, env, players, env_config=None, **reciprocity):
    config = algorithm_class(algorithm).get_default_config().environment(env, env_config=env_config or {})
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=1).debugging(seed=1)
    if algorithm == "PPO":
        config.env_runners(rollout_fragment_length=10)
        config.training(train_batch_size_per_learner=20, minibatch_size=10, num_epochs=1)
    else:
        config.env_runners(rollout_fragment_length=20).training(train_batch_size_per_learner=60)
        config.learners(num_learners=0).reporting(min_time_s_per_iteration=0)
    return config.update_from_dict({"players": players, "reciprocity": reciprocity}).build_algo()


def train_iterations(algo, iterations=3):
    for _ in range(iterations):
        result = algo.train()
    losses = {key: stats["total_loss"] for key, stats in result["learners"].items() if "total_loss" in stats}
    assert losses
    assert all(np.isfinite(float(loss)) for loss in losses.values())
    return result


@pytest.mark.parametrize("observe_balance", [False, True])
@pytest.mark.parametrize(
    ("env", "space"),
    [
        ("pettingzoo/classic/rps_v2", None),
        ("pettingzoo/classic/tictactoe_v3", None),
        ("pettingzoo/classic/connect_four_v3", None),
        ("seeing", MIXED),
        ("seeing", spaces.Box(0, 255, (84, 84, 1), np.uint8)),
        ("seeing", spaces.Box(0.0, 1.0, (50, 40, 3), np.float32)),
        ("seeing", spaces.Box(0.0, 1.0, (3, 4), np.float32)),
        ("seeing", spaces.Box(0, 4, (9, 9), np.uint8)),
    ],
    ids=["rps", "tictactoe", "connect_four", "mixed", "atari", "image", "matrix", "classes"],
)
def test_three_iterations(ray_cluster, env, space, observe_balance):
    algo = build_algorithm(
        "PPO", env, {"*": "reciprocator"}, {"space": space} if space else None, observe_balance=observe_balance
    )
    result = train_iterations(algo)
    assert np.isfinite(float(result["learners"]["influence"]["loss"]))
    algo.stop()


@pytest.mark.parametrize("algorithm", ["APPO", "IMPALA"])
def test_masks_with_other_algorithms(ray_cluster, algorithm):
    algo = build_algorithm(algorithm, "pettingzoo/classic/tictactoe_v3", {"*": algorithm.lower()})
    train_iterations(algo)
    algo.stop()


def test_no_illegal_moves_in_training_or_evaluation(ray_cluster, tmp_path):
    algo = build_algorithm("PPO", "pettingzoo/classic/tictactoe_v3", {"player_1": "ppo", "player_2": "scripted/random"})
    for episode in algo.env_runner.sample(num_episodes=20):
        board = np.zeros(9, bool)
        for step in range(len(episode)):
            (action,) = episode.get_actions(step, env_steps=True).values()
            assert not board[action], "the cell is already occupied"
            board[action] = True
        assert {agent: part.get_return() for agent, part in episode.agent_episodes.items()} in (
            {"player_1": 1.0, "player_2": -1.0}, {"player_1": -1.0, "player_2": 1.0},
            {"player_1": 0.0, "player_2": 0.0},
        )  # fmt: skip
    train_iterations(algo, 1)
    checkpoint = algo.save_to_path(tmp_path / "checkpoint")
    algo.stop()
    report = open_evaluator(checkpoint, seed=1).evaluate(20)
    returns = [report["players"][agent]["return"]["mean"] for agent in ("player_1", "player_2")]
    assert sum(returns) == 0
    assert report["players"]["player_2"]["player"] == "scripted/random"


def test_masked_logits_by_hand():
    logits = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    obs = torch.tensor([[9.0, 1.0, 0.0, 1.0], [9.0, 0.0, 0.0, 0.0]])
    out = masked(logits, obs, 1, 3)
    assert out[0].softmax(0).tolist() == pytest.approx([0.119203, 0.0, 0.880797], abs=1e-6)
    # Logits without legal actions, as in rows that pad a sequence, stay unchanged.
    assert out[1].tolist() == [1.0, 2.0, 3.0]


def test_mask_position_by_hand():
    subspaces = {
        "a_first": spaces.Box(0, 1, (2, 2)),
        "action_mask": spaces.Box(0, 1, (3,)),
        "observation": spaces.Discrete(2),
    }
    assert mask_start(spaces.Dict(subspaces), spaces.Discrete(3)) == 4
    assert mask_start(spaces.Dict(subspaces), spaces.Discrete(4)) is None
    assert mask_start(spaces.Box(0, 1, (3,)), spaces.Discrete(3)) is None


def test_flattened_observations_equal_inputs_of_the_estimator():
    from ray.rllib.connectors.common.flatten_observations import flatten_inputs_to_1d_tensor
    from ray.rllib.utils.spaces.space_utils import batch, get_base_struct_from_space

    MIXED.seed(3)
    rows = [MIXED.sample() for _ in range(5)]
    flat = np.stack(
        [flatten_inputs_to_1d_tensor(row, get_base_struct_from_space(MIXED), batch_axis=False) for row in rows]
    )
    np.testing.assert_array_equal(flat, encode(MIXED, batch(rows)))
    assert flat.shape[1:] == flat_space(MIXED).shape == (encoded_size(MIXED),)


def test_single_agent_with_discrete_observations(ray_cluster):
    config = algorithm_class("PPO").get_default_config()
    config.update_from_dict(
        {"env": "FrozenLake-v1", "num_env_runners": 0, "train_batch_size_per_learner": 64, "minibatch_size": 32}
    )
    algo = config.build_algo()
    assert algo.get_module().observation_space.shape == (16,)
    train_iterations(algo, 1)
    algo.stop()


def test_unsupported_spaces_are_refused_with_a_fix():
    with pytest.raises(ValueError, match="a Sequence space is not supported; convert it in an environment wrapper"):
        build_algorithm("PPO", "seeing", {"*": "ppo"}, {"space": spaces.Sequence(spaces.Discrete(2))})


def test_networks_do_not_see_the_mask(ray_cluster):
    """Checks that the mask affects the sampled actions, but not the logits of legal actions."""
    algo = build_algorithm("PPO", "pettingzoo/classic/tictactoe_v3", {"*": "ppo"})
    module = algo.get_module("player_1")
    obs = torch.rand(4, module.observation_space.shape[0])
    all_legal_obs, some_legal_obs = obs.clone(), obs.clone()
    all_legal_obs[:, :9], some_legal_obs[:, :9] = 1.0, torch.tensor([1.0, 0.0] * 4 + [1.0])
    all_legal_logits, some_legal_logits = (
        module.forward_exploration({Columns.OBS: rows})[Columns.ACTION_DIST_INPUTS]
        for rows in (all_legal_obs, some_legal_obs)
    )
    np.testing.assert_array_equal(all_legal_logits[:, ::2].detach(), some_legal_logits[:, ::2].detach())
    assert (some_legal_logits[:, 1::2] < -1e30).all()
    assert isinstance(module.observation_space, gymnasium.spaces.Box)
    algo.stop()
