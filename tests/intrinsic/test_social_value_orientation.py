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
    return rewards(given, SocialValueOrientationSettings(**{"lowest_reward": 0.0, **settings}))[0, 0].tolist()


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
    # The shorter way round: from 90 to -180 degrees it is 90 degrees, not 270.
    assert found([0.0, 1.0], angle=-180.0)[0] == pytest.approx(-math.radians(90.0), abs=1e-5)


def test_where_nobody_gets_anything_nothing_is_charged():
    assert found([0.0, 0.0], angle=45.0) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("extrinsic", "degrees"),
    [
        ([-1.0, -1.0], [0.0, 0.0]),
        ([-2.0, -2.0], [0.0, 0.0]),
        ([-3.0, 0.0], [45.0, 45.0]),
        ([-1.0, -2.0], [18.434949, 18.434949]),
        ([-3.0, -3.0], [0.0, 0.0]),
        # Below the lowest counts as the lowest.
        ([-9.0, 0.0], [45.0, 45.0]),
    ],
)
def test_negative_rewards_are_counted_from_the_lowest(extrinsic, degrees):
    charged = found(extrinsic, angle=45.0, lowest_reward=-3.0)
    assert charged == pytest.approx([-math.radians(each) for each in degrees], abs=1e-6)


@pytest.mark.parametrize(
    ("env", "given", "lowest"),
    [("ipd_v0", {}, -3.0), ("ipd_v0", {"lowest_reward": -1.0}, -1.0), ("cleanup_lite_v0", {}, 0.0)],
)
def test_the_lowest_reward_is_that_of_the_game(env, given, lowest):
    config = ReciprocatorConfig().environment(env)
    config.players({"*": {"player": "ppo", "intrinsic": {"social_value_orientation": given}}})
    config.validate()
    by_player = config.intrinsic_by_player()["social_value_orientation"]
    assert {settings.lowest_reward for settings in by_player.values()} == {lowest}


def test_a_lowest_reward_that_is_not_known_is_refused():
    for unknown in (None, -math.inf):
        with pytest.raises(ValueError, match=r"social_value_orientation.lowest_reward: .* is not known; set it"):
            SocialValueOrientationSettings().for_game(has_payoffs=False, num_agents=2, gamma=0.9, lowest_reward=unknown)


def test_in_a_dilemma_of_negative_rewards_equal_ones_cost_nothing(build):
    """Two who always do the same are not charged, one who is exploited is; as results have it."""
    caring = {"player": "ppo", "intrinsic": {"social_value_orientation": {"angle": 45.0}}}
    config = ReciprocatorConfig().environment("ipd_v0", env_config={"num_steps": 6}).training(num_epochs=1)
    result = build(config.players({"*": caring}).env_runners(num_envs_per_env_runner=64)).train()
    # Between the angles of (-3, 0), off by 45 degrees, and of equal rewards.
    for player in ("player_0", "player_1"):
        assert -math.pi / 4 < float(result["learners"][player]["social_value_orientation_reward_mean"]) < -0.1


def test_in_a_run_it_is_weighted(build):
    caring = {"player": "ppo", "intrinsic": {"social_value_orientation": {"weight": 0.5, "angle": 30.0}}}
    config = ReciprocatorConfig().environment("coins_v0", env_config={"num_steps": 6})
    algo = build(config.players({"player_0": "ppo", "player_1": caring}).env_runners(num_envs_per_env_runner=8))
    (sample,) = algo.env_runner.sample()
    shaped = algo.learner_group._learner.shape_rewards(sample.joint)
    settings = SocialValueOrientationSettings(angle=30.0, lowest_reward=algo.env_runner.game.reward_range[0])
    expected = sample.rewards[..., 1] + 0.5 * rewards(sample.joint, settings)[..., 1]
    torch.testing.assert_close(shaped[..., 1], expected)
    assert torch.equal(shaped[..., 0], sample.rewards[..., 0])
