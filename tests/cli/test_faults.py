"""What a user may meet in a week: a driver that is killed at any moment, and sweeps of which much diverges."""

import json
import os
import random
import signal
import subprocess
import time

import psutil
import pytest

from tests.cli.test_cli import RLLIB, results, run
from tests.cli.test_resume import ITERATIONS, uninterrupted, written

pytestmark = pytest.mark.slow
__all__ = ["uninterrupted"]


@pytest.mark.parametrize("seed", range(10))
def test_killed_at_a_random_moment(tmp_path, uninterrupted, seed):
    """SIGKILL anywhere between the first import and the last iteration; --resume, or the command again, ends alike."""
    moment = random.Random(seed).uniform(4.0, 20.0)
    command = ("train", "file", written(tmp_path), "--storage-path", str(tmp_path))
    start = time.monotonic()
    process = subprocess.Popen(
        [RLLIB, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(max(0.0, moment - (time.monotonic() - start)))
    ended = process.poll() is not None
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # Ray's own processes notice within seconds that their driver is gone.
    psutil.wait_procs([each for each in psutil.process_iter() if "raylet" in each.name()], timeout=30)
    before = len(list((tmp_path / "run").glob("*/result.json")))
    again = run(*command, "--resume")
    if again.returncode == 2 and "has no experiment to continue" in again.stderr:
        again = run(*command)
    assert again.returncode == 0, (moment, ended, before, again.stderr)
    assert set(results(tmp_path / "run")) == set(range(1, ITERATIONS + 1))
    assert results(tmp_path / "run") == uninterrupted


@pytest.mark.parametrize("largest_lr", [1e3, 1e30])
def test_a_wide_sweep_ends_with_its_table_whatever_diverges(tmp_path, largest_lr):
    file = tmp_path / "wide.yaml"
    settings = {
        "num_envs_per_env_runner": 64,
        "lr": {"tune": "loguniform", "args": [1e-5, largest_lr]},
        "reciprocity": {"weight": {"tune": "uniform", "args": [0.0, 1e3]}},
    }
    entry = {"run": "Reciprocator", "env": "ipd_v0", "stop": {"training_iteration": 30}, "num_samples": 20}
    file.write_text(json.dumps({"wide": {**entry, "config": settings}}))
    command = [RLLIB, "train", "file", str(file), "--storage-path", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    failed = sum(line.startswith("failed ") for line in done.stdout.splitlines())
    print(done.stdout)
    assert largest_lr < 1e30 or failed >= 5
    assert done.returncode == int(failed > 0), done.stderr
    assert "wide: 20 trials of 20 settings" in done.stdout
    assert not [line for line in done.stdout.splitlines() if line.startswith("│") and "nan" in line]
    assert "Traceback" not in done.stdout + done.stderr
