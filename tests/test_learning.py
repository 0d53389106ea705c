"""Tests of the results that tuned examples state, on three seeds. Results of all seeds: benchmarks/learning.py."""

from pathlib import Path

import pytest

from rllib_reciprocator.experiments.schema import read_file
from rllib_reciprocator.experiments.validation import build_config, check

pytestmark = pytest.mark.slow


def outcomes(example, seed, iterations, name):
    """Returns an outcome of both players at each iteration."""
    (experiment,) = read_file(Path("tuned_examples", f"{example}.yaml"))
    algorithm = check(experiment, example)
    algo = build_config(algorithm, experiment.env, {**experiment.config, "seed": seed}).build_algo()
    rates = []
    for _ in range(iterations):
        metrics = algo.train()["env_runners"]["outcomes"]
        rates.append([float(metrics[agent][name]) for agent in ("player_0", "player_1")])
    algo.stop()
    return rates


def cooperation(example, seed, iterations):
    """Returns the cooperation rates of both players at each iteration."""
    return outcomes(example, seed, iterations, "cooperation_rate")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_reciprocators_cooperate(ray_cluster, seed):
    rates = cooperation("reciprocator_ipd", seed, 50)
    assert min(rates[24]) >= 0.9
    assert min(rates[49]) >= 0.95


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_naive_learners_defect(ray_cluster, seed):
    assert max(cooperation("ppo_ipd", seed, 100)[-1]) <= 0.05


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_reciprocator_cooperates_with_tit_for_tat(ray_cluster, seed):
    assert min(cooperation("reciprocator_ipd_vs_tit_for_tat", seed, 50)[-1]) >= 0.95


def test_the_papers_settings_stay_finite(ray_cluster):
    assert all(rate == rate for rates in cooperation("reciprocator_ipd_paper", 1, 300) for rate in rates)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_shared_reward_makes_one_agent_clean(ray_cluster, seed):
    assert 50 * sum(outcomes("shared_reward_cleanup_small", seed, 60, "apples_per_step")[-1]) >= 35


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_naive_learners_clean_little(ray_cluster, seed):
    assert 50 * sum(outcomes("ppo_cleanup_small", seed, 60, "apples_per_step")[-1]) <= 25


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_naive_learners_harvest_unsustainably(ray_cluster, seed):
    assert max(outcomes("ppo_harvest_small", seed, 60, "sustainability")[-1]) <= 25


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_reciprocators_harvest_sustainably(ray_cluster, seed):
    assert min(outcomes("reciprocator_harvest_small", seed, 100, "sustainability")[-1]) >= 35
