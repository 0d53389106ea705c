"""Faults of long runs: a driver that is killed at a random time, and sweeps in which many trials diverge."""

import json
import os
import random
import signal
import subprocess
import time

import psutil
import pytest

from tests.cli.test_resume import ITERATIONS, uninterrupted_results, write_experiment
from tests.helpers.commands import RLLIB, results, run

pytestmark = pytest.mark.slow
__all__ = ["uninterrupted_results"]


@pytest.mark.parametrize("seed", range(10))
def test_run_killed_at_a_random_time_resumes_to_the_same_results(tmp_path, uninterrupted_results, seed):
    """Kills the run at any time between its first import and its last iteration.

    With --resume, or without it if no experiment was saved yet, the command reaches the same results.
    """
    delay = random.Random(seed).uniform(4.0, 20.0)
    command = ("train", "file", write_experiment(tmp_path), "--storage-path", str(tmp_path))
    start = time.monotonic()
    process = subprocess.Popen(
        [RLLIB, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(max(0.0, delay - (time.monotonic() - start)))
    is_finished = process.poll() is not None
    if not is_finished:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # The raylets exit within seconds after their driver has died.
    psutil.wait_procs([candidate for candidate in psutil.process_iter() if "raylet" in candidate.name()], timeout=30)
    num_result_files = len(list((tmp_path / "run").glob("*/result.json")))
    second = run(*command, "--resume")
    if second.returncode == 2 and "has no experiment to continue" in second.stderr:
        second = run(*command)
    assert second.returncode == 0, (delay, is_finished, num_result_files, second.stderr)
    assert set(results(tmp_path / "run")) == set(range(1, ITERATIONS + 1))
    assert results(tmp_path / "run") == uninterrupted_results


@pytest.mark.parametrize("largest_lr", [1e3, 1e30])
def test_wide_sweep_prints_its_table_despite_diverged_trials(tmp_path, largest_lr):
    file = tmp_path / "wide.yaml"
    settings = {
        "num_envs_per_env_runner": 64,
        "lr": {"tune": "loguniform", "args": [1e-5, largest_lr]},
        "reciprocity": {"weight": {"tune": "uniform", "args": [0.0, 1e3]}},
    }
    entry = {"run": "Reciprocator", "env": "ipd_v0", "stop": {"training_iteration": 30}, "num_samples": 20}
    file.write_text(json.dumps({"wide": {**entry, "config": settings}}))
    command = [RLLIB, "train", "file", str(file), "--storage-path", str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    num_failures = sum(line.startswith("failed ") for line in process.stdout.splitlines())
    print(process.stdout)
    assert largest_lr < 1e30 or num_failures >= 5
    assert process.returncode == int(num_failures > 0), process.stderr
    assert "wide: 20 trials of 20 settings" in process.stdout
    assert not [line for line in process.stdout.splitlines() if line.startswith("│") and "nan" in line]
    assert "Traceback" not in process.stdout + process.stderr
