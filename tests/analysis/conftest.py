from pathlib import Path

import pytest

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.algorithms.registry import algorithm_class


def trained(algo, folder):
    algo.train()
    path = algo.save_to_path(folder)
    algo.stop()
    return Path(path)


@pytest.fixture(scope="session")
def ipd(ray_cluster, tmp_path_factory):
    """A Reciprocator that sees its balance, and tit-for-tat, in the prisoner's dilemma."""
    config = (
        ReciprocatorConfig()
        .environment("ipd_v0", env_config={"num_steps": 10})
        .players({"player_0": "reciprocator", "player_1": "scripted/tit_for_tat"})
        .reciprocity(observe_balance=True, balance_decay=0.9)
        .env_runners(num_envs_per_env_runner=16)
        .debugging(seed=1)
    )
    return trained(config.build_algo(), tmp_path_factory.mktemp("ipd") / "checkpoint")


@pytest.fixture(scope="session")
def coins(ray_cluster, tmp_path_factory):
    """Two Reciprocators in Coins, with a learned estimator."""
    config = (
        ReciprocatorConfig()
        .environment("coins_v0", env_config={"num_steps": 8})
        .reciprocity(balance_decay=0.9)
        .env_runners(num_envs_per_env_runner=8)
        .debugging(seed=1)
    )
    return trained(config.build_algo(), tmp_path_factory.mktemp("coins") / "checkpoint")


@pytest.fixture(scope="session")
def stock(ray_cluster, tmp_path_factory):
    """PPO on RLlib's own runners in the prisoner's dilemma: one reciprocates and sees its balance, one does not."""
    config = algorithm_class("PPO").get_default_config().environment("ipd_v0", env_config={"num_steps": 6})
    config.env_runners(num_env_runners=0, rollout_fragment_length=6).rl_module(model_config={"fcnet_hiddens": [8]})
    config.training(train_batch_size_per_learner=24, minibatch_size=12, num_epochs=1).debugging(seed=1)
    players = {"player_0": "reciprocator", "player_1": "ppo"}
    config.update_from_dict({"players": players, "reciprocity": {"observe_balance": True, "balance_decay": 0.9}})
    return trained(config.build_algo(), tmp_path_factory.mktemp("stock") / "checkpoint")
