"""What the tuned examples promise, on three seeds each. The figures of all seeds come from benchmarks/learning.py."""

from pathlib import Path

import pytest

from rllib_reciprocator.experiments.schema import read_file
from rllib_reciprocator.experiments.validation import build_config, check

pytestmark = pytest.mark.slow


def cooperation(example, seed, iterations):
    """Cooperation rates of both players at each iteration."""
    (experiment,) = read_file(Path("tuned_examples", f"{example}.yaml"))
    algorithm = check(experiment, example)
    algo = build_config(algorithm, experiment.env, {**experiment.config, "seed": seed}).build_algo()
    rates = []
    for _ in range(iterations):
        outcomes = algo.train()["env_runners"]["outcomes"]
        rates.append([float(outcomes[agent]["cooperation_rate"]) for agent in ("player_0", "player_1")])
    algo.stop()
    return rates


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
