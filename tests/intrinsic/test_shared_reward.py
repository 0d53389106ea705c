"""A reward that is shared."""

import pytest
import torch

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.intrinsic.shared_reward import SharedRewardSettings, rewards
from tests.helpers.batches import prepared


def test_it_is_what_the_others_got():
    extrinsic = torch.tensor([[[1.0, -2.0, 4.0], [0.0, 0.0, 3.0]]])
    found = rewards({"rewards": extrinsic}, SharedRewardSettings())
    assert found.tolist() == [[[2.0, 5.0, -1.0], [3.0, 3.0, 0.0]]]


def test_those_who_share_learn_from_the_same_sum(build):
    """With weight 1 all get the sum; with less the others' rewards count less."""
    players = {
        "player_0": {"player": "ppo", "intrinsic": {"shared_reward": {}}},
        "player_1": {"player": "ppo", "intrinsic": {"shared_reward": {"weight": 0.25}}},
    }
    config = ReciprocatorConfig().environment("coins_v0", env_config={"num_steps": 1}).players(players)
    config.training(normalize_advantages=False).env_runners(num_envs_per_env_runner=200).debugging(seed=1)
    algo = build(config)
    (sample,) = algo.env_runner.sample()
    batches = prepared(algo, sample)
    own, other = sample.rewards[:, 0].unbind(-1)
    assert own.abs().sum() > 0
    torch.testing.assert_close(batches["player_0"]["value_targets"], own + other)
    torch.testing.assert_close(batches["player_1"]["value_targets"], other + 0.25 * own)


def test_more_than_the_whole_is_refused():
    with pytest.raises(ValueError, match="less than or equal to 1"):
        SharedRewardSettings(weight=1.5)
