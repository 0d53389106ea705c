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
    given = torch.tensor([extrinsic], dtype=torch.float32)
    return JointStep(None, given, given, None, given, given, given, given)


def test_by_hand():
    """Three players; the first has 1, the second 4, the third 2 of smoothed rewards, as all of them remember it."""
    smoothed = torch.tensor([1.0, 4.0, 2.0]).expand(1, 1, 3, 3)
    found = rewards({SMOOTHED_REWARDS: smoothed}, InequityAversionSettings(alpha=5.0, beta=0.05))
    first = -5.0 * (3 + 1) / 2
    second = -0.05 * (3 + 2) / 2
    third = -5.0 * 2 / 2 - 0.05 * 1 / 2
    torch.testing.assert_close(found, torch.tensor([[[first, second, third]]]))


def test_rewards_are_remembered_with_the_decay_of_who_remembers():
    game = social_dilemmas.make("ipd_v0", 1)
    tracker = SmoothedRewardsTracker(game, [InequityAversionSettings(decay=0.5), None])
    tracker.start(None)
    assert tracker.after(step(1.0, 0.0))[SMOOTHED_REWARDS].tolist() == [[[1.0, 0.0], [1.0, 0.0]]]
    assert tracker.after(step(0.0, 2.0))[SMOOTHED_REWARDS].tolist() == [[[0.5, 2.0], [0.0, 2.0]]]
    kept = tracker.get_state()
    tracker.start(torch.tensor([True]))
    assert tracker.after(step(3.0, 0.0))[SMOOTHED_REWARDS].tolist() == [[[3.0, 0.0], [3.0, 0.0]]]
    tracker.set_state(kept)
    assert tracker.after(step(0.0, 0.0))[SMOOTHED_REWARDS].tolist() == [[[0.25, 1.0], [0.0, 0.0]]]


def test_the_documented_example():
    """One gets 1, the other 0; in the next step nobody gets anything."""
    settings = InequityAversionSettings()
    tracker = SmoothedRewardsTracker(social_dilemmas.make("ipd_v0", 1), [settings, settings])
    tracker.start(None)
    steps = torch.stack([tracker.after(step(*each))[SMOOTHED_REWARDS] for each in ((1.0, 0.0), (0.0, 0.0))], 1)
    torch.testing.assert_close(
        rewards({SMOOTHED_REWARDS: steps}, settings), torch.tensor([[[-0.05, -5.0], [-0.04875, -4.875]]])
    )


def test_in_a_run_it_is_that_of_whole_episodes_and_of_those_who_have_it(build):
    """Over the ends of samples, by hand from the extrinsic rewards."""
    averse = {"player": "ppo", "intrinsic": {"inequity_aversion": {"alpha": 2.0, "beta": 0.5, "decay": 0.9}}}
    config = (
        ReciprocatorConfig()
        .environment("ipd_v0", env_config={"num_steps": 6})
        .players({"player_0": averse, "player_1": "ppo"})
        .env_runners(num_envs_per_env_runner=5, rollout_fragment_length=4, stagger_episodes=False)
        .debugging(seed=1)
    )
    algo = build(config)
    learner, smoothed = algo.learner_group._learner, torch.zeros(5, 2)
    for _ in range(3):
        (sample,) = algo.env_runner.sample()
        shaped = learner.shape_rewards(sample.joint)
        for t in range(4):
            fresh = sample.joint["is_first"][:, t, None]
            smoothed = torch.where(fresh, 0.0, 0.9 * smoothed) + sample.rewards[:, t]
            other = smoothed[:, 1] - smoothed[:, 0]
            expected = sample.rewards[:, t, 0] - 2.0 * other.clamp(min=0) - 0.5 * (-other).clamp(min=0)
            torch.testing.assert_close(shaped[:, t, 0], expected, atol=1e-5, rtol=1e-5)
            assert torch.equal(shaped[:, t, 1], sample.rewards[:, t, 1])
    result = algo.train()
    assert "inequity_aversion_reward_mean" in result["learners"]["player_0"]
    assert "inequity_aversion_reward_mean" not in result["learners"]["player_1"]


def test_settings_of_all_and_of_one():
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
    zero, one = config.intrinsic_by_player()["inequity_aversion"].values()
    assert (zero.alpha, zero.beta, zero.decay) == (1.0, 0.2, 0.975)
    assert (one.alpha, one.beta) == (1.0, 0.05)
    assert BatchedEnvRunner(config=config, worker_index=0).sample()[0].joint[SMOOTHED_REWARDS].shape[-2:] == (2, 2)
    with pytest.raises(ValidationError, match="alpha"):
        config.intrinsic("inequity_aversion", alpha=-1.0)
