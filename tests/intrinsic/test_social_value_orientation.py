import math

import pytest
import torch

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.intrinsic.social_value_orientation import (
    SocialValueOrientationSettings,
    reward_angles,
    rewards,
)


def found(extrinsic, **settings):
    given = {"rewards": torch.tensor(extrinsic, dtype=torch.float32)[None, None]}
    return rewards(given, SocialValueOrientationSettings(**settings))[0, 0].tolist()


def test_angles_by_hand():
    angles = reward_angles(torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, -1.0], [3.0, 3.0]]))
    degrees = [[round(math.degrees(angle), 3) for angle in row] for row in angles.tolist()]
    assert degrees == [[0.0, 90.0], [45.0, 45.0], [-90.0, 180.0], [45.0, 45.0]]
    three = reward_angles(torch.tensor([1.0, 2.0, 3.0]))
    assert float(three[0]) == pytest.approx(math.atan2(2.5, 1.0))


def test_how_far_a_step_is_from_what_is_preferred():
    assert found([1.0, 1.0], angle=45.0) == pytest.approx([0.0, 0.0])
    assert found([2.0, 0.0], angle=45.0) == pytest.approx([-math.pi / 4, -math.pi / 4])
    assert found([2.0, 0.0], angle=0.0) == pytest.approx([0.0, -math.pi / 2])
    assert found([2.0, 0.0], angle=90.0) == pytest.approx([-math.pi / 2, 0.0])
    # The shorter way round: from 170 to -90 degrees it is 100 degrees, not 260.
    assert found([0.0, -1.0], angle=170.0)[0] == pytest.approx(-math.radians(100.0), abs=1e-5)


def test_where_nobody_gets_anything_nothing_is_charged():
    assert found([0.0, 0.0], angle=45.0) == [0.0, 0.0]


def test_in_a_run_it_is_weighted(build):
    caring = {"player": "ppo", "intrinsic": {"social_value_orientation": {"weight": 0.5, "angle": 30.0}}}
    config = ReciprocatorConfig().environment("coins_v0", env_config={"num_steps": 6})
    algo = build(config.players({"player_0": "ppo", "player_1": caring}).env_runners(num_envs_per_env_runner=8))
    (sample,) = algo.env_runner.sample()
    shaped = algo.learner_group._learner.shape_rewards(sample.joint)
    settings = SocialValueOrientationSettings(angle=30.0)
    expected = sample.rewards[..., 1] + 0.5 * rewards(sample.joint, settings)[..., 1]
    torch.testing.assert_close(shaped[..., 1], expected)
    assert torch.equal(shaped[..., 0], sample.rewards[..., 0])
