import math

import pytest
import torch

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.intrinsic.social_value_orientation import (
    SocialValueOrientationSettings,
    reward_angles,
    rewards,
)


def svo_rewards(extrinsic, **settings):
    columns = {"rewards": torch.tensor(extrinsic, dtype=torch.float32)[None, None]}
    return rewards(columns, SocialValueOrientationSettings(**{"lowest_reward": 0.0, **settings}))[0, 0].tolist()


def test_angles_by_hand():
    angles = reward_angles(torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, -1.0], [3.0, 3.0]]))
    degrees = [[round(math.degrees(angle), 3) for angle in row] for row in angles.tolist()]
    assert degrees == [[0.0, 90.0], [45.0, 45.0], [-90.0, 180.0], [45.0, 45.0]]
    three = reward_angles(torch.tensor([1.0, 2.0, 3.0]))
    assert float(three[0]) == pytest.approx(math.atan2(2.5, 1.0))


def test_penalty_is_the_distance_from_the_preferred_angle():
    assert svo_rewards([1.0, 1.0], angle=45.0) == pytest.approx([0.0, 0.0])
    assert svo_rewards([2.0, 0.0], angle=45.0) == pytest.approx([-math.pi / 4, -math.pi / 4])
    assert svo_rewards([2.0, 0.0], angle=0.0) == pytest.approx([0.0, -math.pi / 2])
    assert svo_rewards([2.0, 0.0], angle=90.0) == pytest.approx([-math.pi / 2, 0.0])
    # Along the shorter arc, 90 and -180 degrees differ by 90 degrees, not by 270.
    assert svo_rewards([0.0, 1.0], angle=-180.0)[0] == pytest.approx(-math.radians(90.0), abs=1e-5)


def test_steps_without_rewards_have_no_penalty():
    assert svo_rewards([0.0, 0.0], angle=45.0) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("extrinsic", "degrees"),
    [
        ([-1.0, -1.0], [0.0, 0.0]),
        ([-2.0, -2.0], [0.0, 0.0]),
        ([-3.0, 0.0], [45.0, 45.0]),
        ([-1.0, -2.0], [18.434949, 18.434949]),
        ([-3.0, -3.0], [0.0, 0.0]),
        # Rewards below the lowest one are clipped to it.
        ([-9.0, 0.0], [45.0, 45.0]),
    ],
)
def test_negative_rewards_are_counted_from_the_lowest(extrinsic, degrees):
    penalties = svo_rewards(extrinsic, angle=45.0, lowest_reward=-3.0)
    assert penalties == pytest.approx([-math.radians(angle) for angle in degrees], abs=1e-6)


@pytest.mark.parametrize(
    ("env", "overrides", "lowest"),
    [("ipd_v0", {}, -3.0), ("ipd_v0", {"lowest_reward": -1.0}, -1.0), ("cleanup_lite_v0", {}, 0.0)],
)
def test_lowest_reward_defaults_to_that_of_the_game(env, overrides, lowest):
    config = ReciprocatorConfig().environment(env)
    config.players({"*": {"player": "ppo", "intrinsic": {"social_value_orientation": overrides}}})
    config.validate()
    by_player = config.intrinsic_by_player()["social_value_orientation"]
    assert {settings.lowest_reward for settings in by_player.values()} == {lowest}


def test_unknown_lowest_reward_is_refused():
    for value in (None, -math.inf):
        with pytest.raises(ValueError, match=r"social_value_orientation.lowest_reward: .* is not known; set it"):
            SocialValueOrientationSettings().for_game(has_payoffs=False, num_agents=2, gamma=0.9, lowest_reward=value)


def test_equal_negative_rewards_have_no_penalty_in_training(build):
    """Checks the logged mean: steps with equal rewards have no penalty, steps in which one is exploited have one."""
    svo_player = {"player": "ppo", "intrinsic": {"social_value_orientation": {"angle": 45.0}}}
    config = ReciprocatorConfig().environment("ipd_v0", env_config={"num_steps": 6}).training(num_epochs=1)
    result = build(config.players({"*": svo_player}).env_runners(num_envs_per_env_runner=64)).train()
    # Between the penalties of (-3, 0), which is off by 45 degrees, and of equal rewards.
    for player in ("player_0", "player_1"):
        assert -math.pi / 4 < float(result["learners"][player]["social_value_orientation_reward_mean"]) < -0.1


def test_training_applies_the_weight(build):
    svo_player = {"player": "ppo", "intrinsic": {"social_value_orientation": {"weight": 0.5, "angle": 30.0}}}
    config = ReciprocatorConfig().environment("coins_v0", env_config={"num_steps": 6})
    algo = build(config.players({"player_0": "ppo", "player_1": svo_player}).env_runners(num_envs_per_env_runner=8))
    (sample,) = algo.env_runner.sample()
    shaped_rewards = algo.learner_group._learner.shape_rewards(sample, 0)
    settings = SocialValueOrientationSettings(angle=30.0, lowest_reward=algo.env_runner.game.reward_range[0])
    expected = sample.rewards[..., 1] + 0.5 * rewards(sample.reward_columns(), settings)[..., 1]
    torch.testing.assert_close(shaped_rewards[..., 1], expected)
    assert torch.equal(shaped_rewards[..., 0], sample.rewards[..., 0])
