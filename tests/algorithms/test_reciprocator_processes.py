"""Tests of Reciprocators with several env runners, learners and processes."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from rllib_reciprocator.engine import BatchedEnvRunner
from tests.algorithms.test_every_algorithm import assert_restored_run_continues_identically
from tests.helpers.reciprocators import reciprocator_config
from tests.helpers.weights import assert_same_weights


@pytest.mark.processes
def test_initial_weights_do_not_depend_on_the_hash_seed():
    code = (
        "from rllib_reciprocator import ReciprocatorConfig; from rllib_reciprocator.engine import BatchedEnvRunner;"
        "c = ReciprocatorConfig().environment('ipd_v0').env_runners(num_envs_per_env_runner=4).debugging(seed=1);"
        "c.validate(); module = BatchedEnvRunner(config=c, worker_index=0).module['player_0'];"
        "print(module.actor.head.weight[0].tolist()); print(list({'player_0', 'player_1'}))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    printed_weights, printed_sets = zip(*(output.splitlines() for output in outputs), strict=True)
    assert printed_sets[0] != printed_sets[1], "these seeds order sets differently"
    assert printed_weights[0] == printed_weights[1]


@pytest.mark.processes
@pytest.mark.parametrize("env", ["ipd_v0", "coins_v0"])
@pytest.mark.parametrize("learners", [1, 2])
def test_remote_learners_match_local_ones(build, learners, env):
    """Trains on the same samples, so that only the order of summation differs; with a learned estimator too."""
    local, remote = (
        build(reciprocator_config(normalize=True, env=env).learners(num_learners=number)) for number in (0, learners)
    )
    for _ in range(2):
        local.train()
        remote.train()
    assert_same_weights(local, remote, atol=2e-5, rtol=1e-4)


@pytest.mark.processes
def test_remote_runners_sample_like_local_ones(build):
    algo = build(reciprocator_config(games=16).env_runners(num_env_runners=2))
    result = algo.train()
    assert result["env_runners"]["num_env_steps_sampled"] == 2 * 16 * 4
    assert result["env_runners"]["num_episodes"] == 32
    algo.train()
    learner_weights = algo.learner_group.get_weights()

    def state_and_actions(runner):
        return runner.worker_index, runner.module.get_state(), runner.sample()[0].actions

    for index, state, actions in algo.env_runner_group.foreach_env_runner(state_and_actions, local_env_runner=False):
        for module_id, params in learner_weights.items():
            for name, value in params.items():
                np.testing.assert_array_equal(state[module_id][name], value)
        local = BatchedEnvRunner(config=algo.config, worker_index=index)
        local.set_state({"rl_module": learner_weights, "weights_seq_no": 2})
        assert torch.equal(local.sample()[0].actions, actions)


@pytest.mark.processes
def test_killed_runners_are_restarted(build):
    import ray

    a_config = reciprocator_config(games=16).env_runners(num_env_runners=2)
    a_config.fault_tolerance(restart_failed_env_runners=True, delay_between_env_runner_restarts_s=0.1)
    algo = build(a_config)
    algo.train()
    ray.kill(algo.env_runner_group._worker_manager.actors()[1], no_restart=False)
    deadline = time.monotonic() + 60
    while algo.train()["env_runners"]["num_env_steps_sampled"] < 2 * 16 * 4:
        assert time.monotonic() < deadline
    assert (
        len(set(map(str, algo.env_runner_group.foreach_env_runner(lambda r: r.weights_seq_no, local_env_runner=False))))
        == 1
    )


@pytest.mark.processes
def test_learners_share_the_remaining_samples_if_a_runner_is_lost(build):
    """Uses three env runners and two learners: a surplus environment is dropped, so that shards have equal length."""
    import ray

    a_config = (
        reciprocator_config(games=6)
        .env_runners(num_env_runners=3, num_cpus_per_env_runner=0.5)
        .learners(num_learners=2)
    )
    a_config.fault_tolerance(restart_failed_env_runners=False, ignore_env_runner_failures=True)
    algo = build(a_config)
    algo.train()
    ray.kill(algo.env_runner_group._worker_manager.actors()[1])
    for _ in range(2):
        assert np.isfinite(algo.train()["learners"]["player_0"]["total_loss"])
    (sample,) = algo.env_runner_group.foreach_env_runner(
        lambda r: r.sample()[0].first_environments(5), local_env_runner=False
    )[:1]
    assert len(algo._for_learners(sample.first_environments(5)).rewards) == 4


@pytest.mark.processes
def test_iterations_without_samples_raise_with_the_cause(build, monkeypatch, tmp_path):
    """Uses env runners that raise the same error after every restart."""
    from rllib_reciprocator.engine import algorithm

    monkeypatch.setattr(algorithm, "SECONDS_BETWEEN", 0.1)
    a_config = reciprocator_config({"*": "ppo"}, games=4, env="tests.helpers.breaking_game:breaks_v0")
    a_config.environment(env_config={"fuse": str(tmp_path / "fuse"), "num_steps": 4})
    algo = build(a_config.env_runners(num_env_runners=1))
    algo.train()
    (tmp_path / "fuse").touch()
    with pytest.raises(RuntimeError, match=r"no env runner returned a sample in 3 attempts: .*out of coins"):
        algo.train()


@pytest.mark.processes
def test_restored_runs_of_two_learners_continue_identically(build, tmp_path):
    assert_restored_run_continues_identically(build, tmp_path, "Reciprocator", learners=2, fragment="auto")
