"""Tests of metrics of rollouts: outcomes, influence, lengths of episodes, rewards and inner episodes."""

import math

import pytest
import torch

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.engine.metrics import social_outcomes
from tests.helpers.rollouts import runner, sampling_config


def test_metrics_of_scripted_players_by_hand():
    env_runner = runner(sampling_config({"player_0": "ppo", "player_1": "scripted/always_defect"}, games=4))
    (sample,) = env_runner.sample()
    metrics = env_runner.get_metrics()
    rate = float((sample.actions[..., 0] == 0).float().mean())
    assert metrics["outcomes"]["player_0"]["cooperation_rate"].peek() == pytest.approx(rate)
    assert metrics["outcomes"]["player_1"]["cooperation_rate"].peek() == 0.0
    assert metrics["social"]["efficiency"].peek() == pytest.approx(float(sample.rewards.sum(-1).mean()), rel=1e-5)
    assert "influence" not in metrics


def test_influence_metrics_by_ordered_pair():
    env_runner = runner(sampling_config({"player_0": "reciprocator", "player_1": "scripted/random"}))
    (sample,) = env_runner.sample()
    metrics = env_runner.get_metrics()
    assert metrics["influence"]["player_0_on_player_1"].peek() == pytest.approx(
        float(sample.columns["influence"][..., 0, 1].mean()), abs=1e-6
    )
    assert metrics["balance"]["player_0_towards_player_1"].peek() == pytest.approx(
        float(sample.columns["balance"][..., 1, 0].mean()), abs=1e-6
    )


@pytest.mark.parametrize("fragment", [2, 3, 5])
def test_mean_episode_length_does_not_depend_on_fragments(countdown, fragment):
    """Compares with the expected length of an episode: long episodes are counted although fragments are shorter."""
    a_config = sampling_config({"*": "ppo"}, env="countdown_v0", games=500)
    a_config.env_runners(rollout_fragment_length=fragment).environment(env_config={"num_steps": 12})
    env_runner = runner(a_config)
    lengths, episodes = [], []
    for _ in range(120 // fragment):
        env_runner.sample()
        metrics = env_runner.get_metrics()
        if "num_episodes" in metrics and metrics["num_episodes"].peek():
            episodes.append(metrics["num_episodes"].peek())
            lengths.append(float(metrics["episode_len_mean"].peek()))
    steps = [0.0, 1.0]
    for count in range(2, 12):
        steps.append(1 + 0.5 * steps[count - 1] + 0.5 * steps[count - 2])
    mean = sum(a * b for a, b in zip(lengths, episodes, strict=True)) / sum(episodes)
    # Untrained policies hurry in about half of the steps.
    assert mean == pytest.approx(sum(steps[2:]) / 10, rel=0.12)


def test_social_outcomes_are_reported_if_defined():
    assert social_outcomes(torch.tensor([0.5, -0.5]), lowest=-1.0) == {"efficiency": 0.0, "reward_gap": 1.0}
    outcomes = social_outcomes(torch.tensor([3.0, 1.0]), lowest=0.0)
    # The Gini coefficient is |3 - 1|, counted twice, divided by 2 * N * sum: 4 / 16.
    assert outcomes == {"efficiency": 4.0, "reward_gap": 2.0, "equality": 0.75}
    assert social_outcomes(torch.zeros(3), lowest=0.0)["equality"] == 1.0
    assert social_outcomes(torch.tensor([0.0, 0.0, 9.0]), lowest=0.0)["equality"] == pytest.approx(1 / 3)


def test_reward_per_step_is_that_of_the_fragment():
    env_runner = runner(sampling_config({"*": "ppo"}).env_runners(rollout_fragment_length=4))
    for _ in range(3):
        (sample,) = env_runner.sample()
        rewards_per_step = env_runner.get_metrics()["reward_per_step"]
        for index, agent in enumerate(("player_0", "player_1")):
            assert rewards_per_step[agent].peek() == pytest.approx(float(sample.rewards[..., index].mean()), abs=1e-5)


def test_inner_episodes_are_numbered_from_the_start_of_the_meta_episode(build):
    """Uses rollouts of one inner episode, after which the online learner is updated."""
    players = {"player_0": "ppo", "player_1": "learner/pg"}
    a_config = ReciprocatorConfig().environment("ipd_v0", env_config={"num_steps": 4})
    a_config.players(players).meta(inner_episodes=3, copies=4)
    algo = build(a_config.env_runners(num_envs_per_env_runner=16).debugging(seed=1))
    numbers = []
    for _ in range(7):
        rates = algo.train()["env_runners"]["inner_episodes"]["player_0"]["cooperation_rate"]
        (number,) = (int(key) for key, value in rates.items() if math.isfinite(value))
        numbers.append(number)
    assert numbers == [0, 1, 2, 0, 1, 2, 0]
