import pytest
import torch
from pydantic import ValidationError

import social_dilemmas
from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.engine import BatchedEnvRunner, JointStep
from rllib_reciprocator.intrinsic.inequity_aversion import (
    SMOOTHED_REWARDS,
    InequityAversionSettings,
    SmoothedRewardsTracker,
    rewards,
)


def step(*extrinsic):
    column = torch.tensor([extrinsic], dtype=torch.float32)
    return JointStep(None, column, column, None, column, column, column, column)


def test_by_hand():
    """Checks three players with smoothed rewards of 1, 4 and 2, on which all players agree."""
    smoothed_rewards = torch.tensor([1.0, 4.0, 2.0]).expand(1, 1, 3, 3)
    result = rewards({SMOOTHED_REWARDS: smoothed_rewards}, InequityAversionSettings(alpha=5.0, beta=0.05))
    first = -5.0 * (3 + 1) / 2
    second = -0.05 * (3 + 2) / 2
    third = -5.0 * 2 / 2 - 0.05 * 1 / 2
    torch.testing.assert_close(result, torch.tensor([[[first, second, third]]]))


def test_smoothed_rewards_decay_by_the_setting_of_each_player():
    game = social_dilemmas.make("ipd_v0", 1)
    tracker = SmoothedRewardsTracker(game, [InequityAversionSettings(decay=0.5), None])
    tracker.start(None)
    assert tracker.after(step(1.0, 0.0))[SMOOTHED_REWARDS].tolist() == [[[1.0, 0.0], [1.0, 0.0]]]
    assert tracker.after(step(0.0, 2.0))[SMOOTHED_REWARDS].tolist() == [[[0.5, 2.0], [0.0, 2.0]]]
    state = tracker.get_state()
    tracker.start(torch.tensor([True]))
    assert tracker.after(step(3.0, 0.0))[SMOOTHED_REWARDS].tolist() == [[[3.0, 0.0], [3.0, 0.0]]]
    tracker.set_state(state)
    assert tracker.after(step(0.0, 0.0))[SMOOTHED_REWARDS].tolist() == [[[0.25, 1.0], [0.0, 0.0]]]


def test_the_documented_example():
    """Checks rewards of 1 and 0 in the first step, followed by a step without rewards."""
    settings = InequityAversionSettings()
    tracker = SmoothedRewardsTracker(social_dilemmas.make("ipd_v0", 1), [settings, settings])
    tracker.start(None)
    steps = torch.stack(
        [tracker.after(step(*extrinsic))[SMOOTHED_REWARDS] for extrinsic in ((1.0, 0.0), (0.0, 0.0))], 1
    )
    torch.testing.assert_close(
        rewards({SMOOTHED_REWARDS: steps}, settings), torch.tensor([[[-0.05, -5.0], [-0.04875, -4.875]]])
    )


def test_training_shapes_rewards_of_averse_players_over_whole_episodes(build):
    """Recomputes the shaped rewards from the extrinsic ones, also across the ends of rollouts."""
    averse_player = {"player": "ppo", "intrinsic": {"inequity_aversion": {"alpha": 2.0, "beta": 0.5, "decay": 0.9}}}
    config = (
        ReciprocatorConfig()
        .environment("ipd_v0", env_config={"num_steps": 6})
        .players({"player_0": averse_player, "player_1": "ppo"})
        .env_runners(num_envs_per_env_runner=5, rollout_fragment_length=4, stagger_episodes=False)
        .debugging(seed=1)
    )
    algo = build(config)
    learner, smoothed_rewards = algo.learner_group._learner, torch.zeros(5, 2)
    for _ in range(3):
        (sample,) = algo.env_runner.sample()
        shaped_rewards = learner.shape_rewards(sample, 0)
        for t in range(4):
            is_first = sample.is_first[:, t, None]
            smoothed_rewards = torch.where(is_first, 0.0, 0.9 * smoothed_rewards) + sample.rewards[:, t]
            difference = smoothed_rewards[:, 1] - smoothed_rewards[:, 0]
            expected = sample.rewards[:, t, 0] - 2.0 * difference.clamp(min=0) - 0.5 * (-difference).clamp(min=0)
            torch.testing.assert_close(shaped_rewards[:, t, 0], expected, atol=1e-5, rtol=1e-5)
            assert torch.equal(shaped_rewards[:, t, 1], sample.rewards[:, t, 1])
    result = algo.train()
    assert "inequity_aversion_reward_mean" in result["learners"]["player_0"]
    assert "inequity_aversion_reward_mean" not in result["learners"]["player_1"]


def test_player_settings_override_global_ones():
    config = ReciprocatorConfig().environment("ipd_v0")
    config.update_from_dict(
        {
            "inequity_aversion": {"alpha": 1.0},
            "players": {
                "player_0": {"player": "ppo", "intrinsic": {"inequity_aversion": {"beta": 0.2}}},
                "player_1": {"player": "ppo", "intrinsic": {"inequity_aversion": {}}},
            },
        }
    )
    config.validate()
    first, second = config.intrinsic_by_player()["inequity_aversion"].values()
    assert (first.alpha, first.beta, first.decay) == (1.0, 0.2, 0.975)
    assert (second.alpha, second.beta) == (1.0, 0.05)
    assert BatchedEnvRunner(config=config, worker_index=0).sample()[0].columns[SMOOTHED_REWARDS].shape[-2:] == (2, 2)
    with pytest.raises(ValidationError, match="alpha"):
        config.intrinsic("inequity_aversion", alpha=-1.0)
