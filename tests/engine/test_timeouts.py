"""Tests of env runners that exceed ``sample_timeout_s``."""

import pytest

from rllib_reciprocator import ReciprocatorConfig
from tests.helpers.env_runners import SlowSecondRunner


@pytest.mark.processes
def test_late_env_runners_are_counted_and_reported_once(build, caplog):
    config = (
        ReciprocatorConfig()
        .environment("ipd_v0", env_config={"num_steps": 4})
        .env_runners(num_env_runners=2, num_envs_per_env_runner=4, sample_timeout_s=2.5)
        .training(num_epochs=1)
    )
    config.env_runner_cls = SlowSecondRunner
    algo = build(config)
    results = [algo.train()["env_runners"] for _ in range(2)]
    assert [result["num_env_runners_timed_out"] for result in results] == [1, 1]
    assert [result["num_env_steps_sampled"] for result in results] == [16, 16]
    (warning,) = [line for line in caplog.messages if "sample_timeout_s" in line]
    assert warning.startswith("1 of 2 env runners took longer than sample_timeout_s (2.5 s)")
