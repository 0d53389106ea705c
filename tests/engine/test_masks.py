"""Tests of masks: steps after the end of an episode change no update, and masked steps are not counted."""

import numpy as np
import pytest

from rllib_reciprocator.intrinsic.reciprocity import REWARDS, reciprocal_reward
from tests.helpers.masks import RUNS, changed_keys, corrupt, learn, masked_config
from tests.helpers.weights import weights


@pytest.mark.parametrize("name", RUNS)
def test_steps_after_the_end_of_an_episode_change_no_update(build, name):
    """Covers policies, critics, influence estimators and incentive functions."""
    player = RUNS[name][1]

    def build_run():
        return build(masked_config(name, {"player_*": player}, env="countdown_v0", games=24))

    algo, other_algo = build_run(), build_run()
    start = weights(algo)
    samples = [algo.sample() for _ in range(2)]
    after_end = [~sample.in_first_episode() for sample in samples]
    assert all(bool(mask.any()) for mask in after_end)
    expected = learn(algo, *samples)
    other_samples = [corrupt(sample, mask) for sample, mask in zip(samples, after_end, strict=True)]
    actual = learn(other_algo, *other_samples)
    assert changed_keys(start, expected)
    if name == "reciprocator":
        assert changed_keys(start, expected, "influence/")
    assert not changed_keys(expected, actual)


def test_normalized_returns_with_complete_episodes(build):
    """Expects the same update with complete episodes, whose mask includes all steps, as with truncated ones."""
    settings = {"normalize_returns": True, "lambda_": 1.0, "bootstrap_at_horizon": False}
    final_weights = []
    for whole in (True, False):
        algo = build(masked_config("ppo", {"player_*": "ppo"}, whole=whole, **settings))
        algo.train()
        final_weights.append(weights(algo))
    for key in final_weights[0]:
        np.testing.assert_allclose(final_weights[0][key], final_weights[1][key], atol=1e-5, err_msg=key)


def test_masked_steps_are_not_counted(build):
    """Counts environment steps until the end of the episode, and module steps where the pool member plays."""
    algo = build(masked_config("reciprocator", env="countdown_v0", games=64))
    result = algo.train()
    metrics = result["env_runners"]
    steps = int(metrics["num_env_steps_sampled"])
    assert steps < 64 * 6
    assert steps == int(result["num_env_steps_sampled_lifetime"])
    assert steps == pytest.approx(float(metrics["num_episodes"]) * float(metrics["episode_len_mean"]), abs=1e-3)
    by_member = metrics["pool"]["player_1"]
    shares = {key: float(value["share_of_steps"]) for key, value in by_member.items()}
    assert sum(shares.values()) == pytest.approx(1.0)
    for key, share in shares.items():
        assert int(metrics["num_module_steps_sampled"][key]) == round(share * steps)
    assert int(metrics["num_agent_steps_sampled"]["player_1"]) == steps
    learner_metrics = result["learners"]
    assert int(learner_metrics["player_1"]["num_module_steps_trained"]) == round(shares["player_1"] * steps)
    assert int(learner_metrics["player_0"]["num_module_steps_trained"]) == steps
    assert int(learner_metrics["__all_modules__"]["num_env_steps_trained"]) == steps


def test_reciprocal_reward_metrics_ignore_masked_steps(build):
    algo = build(masked_config("reciprocator", env="countdown_v0", games=64))
    sample = algo.sample()
    algo.learn(sample)
    results = algo.metrics.peek(("learners", "player_1"))
    is_playing = sample.in_first_episode() & (sample.pool_members[..., 1] == 0)
    rule = REWARDS[algo.config.intrinsic_of_all("reciprocity", algo.config.make_game()).reward]
    rewards = reciprocal_reward(sample.columns["balance"], sample.columns["given"], rule)[..., 1]
    assert float(results["reciprocal_reward_mean"]) == pytest.approx(
        float(rewards[is_playing].mean()), rel=1e-4, abs=1e-6
    )
    assert float(results["reciprocal_reward_std"]) == pytest.approx(
        float(rewards[is_playing].std(correction=0)), rel=1e-4, abs=1e-6
    )
    assert float(rewards[is_playing].std()) > 0.0
