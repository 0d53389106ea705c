"""Tests of the shared reward."""

import pytest
import torch

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.intrinsic.shared_reward import SharedRewardSettings, rewards
from tests.helpers.batches import prepared


def test_shared_reward_is_the_sum_of_the_others_rewards():
    extrinsic = torch.tensor([[[1.0, -2.0, 4.0], [0.0, 0.0, 3.0]]])
    shared_rewards = rewards({"rewards": extrinsic}, SharedRewardSettings())
    assert shared_rewards.tolist() == [[[2.0, 5.0, -1.0], [3.0, 3.0, 0.0]]]


def test_value_targets_include_the_shared_reward(build):
    """Checks that weight 1 gives the sum of all rewards and that a smaller weight scales the others' rewards."""
    players = {
        "player_0": {"player": "ppo", "intrinsic": {"shared_reward": {}}},
        "player_1": {"player": "ppo", "intrinsic": {"shared_reward": {"weight": 0.25}}},
    }
    config = ReciprocatorConfig().environment("coins_v0", env_config={"num_steps": 1}).players(players)
    config.training(normalize_advantages=False).env_runners(num_envs_per_env_runner=200).debugging(seed=1)
    algo = build(config)
    (sample,) = algo.env_runner.sample()
    batches = prepared(algo, sample)
    first, second = sample.rewards[:, 0].unbind(-1)
    assert first.abs().sum() > 0
    torch.testing.assert_close(batches["player_0"]["value_targets"], first + second)
    torch.testing.assert_close(batches["player_1"]["value_targets"], second + 0.25 * first)


def test_weights_above_1_are_refused():
    with pytest.raises(ValueError, match="less than or equal to 1"):
        SharedRewardSettings(weight=1.5)
