"""Tests that genuine checkpoints of all algorithms are read."""

import pytest

from rllib_reciprocator.algorithms.registry import BATCHED, algorithm_class
from rllib_reciprocator.experiments.validation import build_config
from rllib_reciprocator.utils.checkpoints import (
    MODULE_PATH,
    check_pickles,
    describe,
    read_config,
    read_constructor,
)


def assert_is_read(folder):
    """Checks that every reader accepts a checkpoint."""
    check_pickles(folder)
    config = read_config(folder)
    description = describe(folder)
    assert (description.algorithm, description.env) == (config.algo_class.__name__, config.env)
    for module in (folder / MODULE_PATH).iterdir():
        if module.is_dir():
            read_constructor(module)


WITH_TWO_LEARNERS = [pytest.param(name, 2, marks=pytest.mark.slow) for name in BATCHED if name != "Reciprocator"]


@pytest.mark.parametrize(
    ("name", "learners"), [*((name, 0) for name in BATCHED), ("Reciprocator", 2), *WITH_TWO_LEARNERS]
)
def test_genuine_checkpoints_of_the_engine_are_read(build, tmp_path, name, learners):
    """Trains one iteration with a pool of an online learner, a trained and a scripted player.

    Two learners wrap their modules for PyTorch's distributed training; their checkpoints name the wrapper.
    """
    default = algorithm_class(name).get_default_config()
    pool = {"pool": {"learner/pg": 0.5, "ppo": 0.3, "scripted/random": 0.2}}
    settings = {
        "num_envs_per_env_runner": 32, "num_learners": learners, "env_config": {"num_steps": 4},
        "players": {"player_0": default.default_player, "player_1": pool},
        "meta": {"inner_episodes": 2, "copies": 4},
    }  # fmt: skip
    algo = build(build_config(algorithm_class(name), "ipd_v0", settings))
    algo.train()
    algo.save_to_path(tmp_path)
    assert_is_read(tmp_path)


@pytest.mark.parametrize("remote", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["PPO", "APPO", "IMPALA"])
def test_genuine_checkpoints_of_rllibs_algorithms_are_read(build, tmp_path, name, remote):
    settings = {
        "num_learners": remote, "num_env_runners": remote, "rollout_fragment_length": 6, "env_config": {"num_steps": 6},
        "train_batch_size_per_learner": 24, "players": {"player_0": "reciprocator", "player_1": "scripted/tit_for_tat"},
        "reciprocity": {"observe_balance": True},
        **({"minibatch_size": 12, "num_epochs": 1} if name == "PPO" else {"min_time_s_per_iteration": 0}),
    }  # fmt: skip
    algo = build(build_config(algorithm_class(name), "ipd_v0", settings))
    algo.train()
    algo.save_to_path(tmp_path)
    assert_is_read(tmp_path)
