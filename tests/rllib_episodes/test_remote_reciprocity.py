"""Trains with remote env runners and learners, which get the weights of the estimator."""

import time

import numpy as np
import pytest
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig

from tests.helpers.reciprocate import config

SAMPLED = "num_env_steps_sampled"


@pytest.mark.processes
@pytest.mark.parametrize("learners", [1, 2])
def test_remote_runners_and_learners(build, learners):
    a_config = config(observe_balance=True).learners(num_learners=learners)
    algo = build(a_config.env_runners(num_env_runners=2, rollout_fragment_length=10))
    for _ in range(3):
        result = algo.train()
    assert np.isfinite(float(result["learners"]["influence"]["loss"]))
    local = algo.learner_group.get_weights()["influence"]
    for remote in algo.env_runner_group.foreach_env_runner(
        lambda r: r.module["influence"].get_state(), local_env_runner=False
    ):
        for name, value in local.items():
            np.testing.assert_array_equal(remote[name], value)


def estimators_of_runners(algo):
    return algo.env_runner_group.foreach_env_runner(lambda r: r.module["influence"].get_state(), local_env_runner=False)


def train_until_fitted(algo, rounds=40):
    """Trains until the estimator has been fitted and the env runners have its new weights."""
    (before,) = estimators_of_runners(algo)
    for _ in range(rounds):
        result = algo.train()
        (after,) = estimators_of_runners(algo)
        is_updated = any(not np.array_equal(after[name], value) for name, value in before.items())
        if is_updated and np.isfinite(float(result.get("learners", {}).get("influence", {}).get("loss", np.nan))):
            return result
    raise AssertionError("the estimator has not been fitted, or not been sent")


@pytest.mark.processes
@pytest.mark.parametrize("kind", [IMPALAConfig, pytest.param(APPOConfig, marks=pytest.mark.slow)])
def test_asynchronous_algorithms(build, kind):
    players = {"*": "reciprocator", "early": kind.__name__.removesuffix("Config").lower()}
    a_config = config(players, kind=kind, observe_balance=True).env_runners(num_env_runners=1)
    a_config.reporting(min_time_s_per_iteration=1)
    a_config.use_env_runner_state_server = False
    result = train_until_fitted(build(a_config))
    assert np.isfinite(float(result["env_runners"]["influence"]["stays_on_late"]))


@pytest.mark.processes
@pytest.mark.parametrize(
    ("kind", "runners"), [(PPOConfig, 2), (IMPALAConfig, 0), pytest.param(APPOConfig, 0, marks=pytest.mark.slow)]
)
def test_a_scheduled_weight_follows_training_iterations(build, tmp_path, kind, runners):
    """Checks that updates of the learner do not count: asynchronous algorithms make many of them per iteration."""

    def build_new():
        weight = {"start": 1.0, "end": 100.0, "per_iteration": 1.0}
        a_config = config(kind=kind, weight=weight, fragment=10).env_runners(num_env_runners=runners)
        a_config.reporting(min_time_s_per_iteration=0 if kind is PPOConfig else 0.5)
        return build(a_config)

    algo = build_new()
    weights = [float(algo.train()["env_runners"]["reciprocal_weight"]) for _ in range(3)]
    assert weights == [1.0, 2.0, 3.0]
    algo.save_to_path(tmp_path)
    restored_algo = build_new()
    restored_algo.restore_from_path(tmp_path)
    assert float(restored_algo.train()["env_runners"]["reciprocal_weight"]) == 4.0


@pytest.mark.processes
def test_restarted_env_runner_gets_the_estimator(build):
    import ray

    a_config = config(observe_balance=True).env_runners(num_env_runners=2, rollout_fragment_length=10)
    a_config.fault_tolerance(restart_failed_env_runners=True, delay_between_env_runner_restarts_s=0.1)
    algo = build(a_config)
    algo.train()
    ray.kill(algo.env_runner_group._worker_manager.actors()[1], no_restart=False)
    deadline = time.monotonic() + 90
    while True:
        result = algo.train()
        if algo.env_runner_group.num_healthy_remote_workers() == 2 and result["env_runners"][SAMPLED] == 40:
            break
        assert time.monotonic() < deadline
    weights = algo.learner_group.get_weights()["influence"]
    states = algo.env_runner_group.foreach_env_runner(
        lambda r: r.module["influence"].get_state(), local_env_runner=False
    )
    assert len(states) == 2
    for state in states:
        for name, value in weights.items():
            np.testing.assert_array_equal(state[name], value)
