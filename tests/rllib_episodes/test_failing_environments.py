"""Tests environments that raise errors or give rewards of NaN."""

import numpy as np
import pytest

from tests.helpers.reciprocate import config


def test_nan_rewards_end_training_and_name_agent_and_step(build):
    algo = build(config(fragment=7, env_config={"poison": 3}))
    with pytest.raises(ValueError, match="gave stays a reward of nan at step 2"):
        algo.train()


def test_an_environment_that_raises_ends_training(build):
    with pytest.raises(RuntimeError) as error:
        build(config(fragment=7, env_config={"breaks": 5})).train()
    assert "the simulator broke" in str(error.value.__cause__)


def test_failed_environment_is_restarted_if_configured(build, tmp_path):
    a_config = config(fragment=7, env_config={"breaks": 5, "flag": str(tmp_path / "broke")}, observe_balance=True)
    algo = build(a_config.fault_tolerance(restart_failed_sub_environments=True))
    result = algo.train()
    assert (tmp_path / "broke").exists()
    assert np.isfinite(float(result["learners"]["influence"]["loss"]))
    assert algo.train()["env_runners"]["episode_len_mean"] == 7
