"""Resumes runs that were killed or interrupted, and runs with a longer or shorter stop criterion."""

import json
import os
import pickle
import re
import resource
import signal
import subprocess
import time

import psutil
import pytest

from rllib_reciprocator import Reciprocator
from rllib_reciprocator.experiments.resuming import check_resumable, describe, prepare
from rllib_reciprocator.experiments.schema import typed
from rllib_reciprocator.experiments.stopping import StopAt
from rllib_reciprocator.utils.errors import UserError
from tests.helpers.commands import FIGURES, RLLIB, invoke, one_line, results

CONFIG = {"num_envs_per_env_runner": 128, "seed": 3, "players": {"player_0": "reciprocator", "player_1": "ppo"}}
ITERATIONS = 60


def write_experiment(folder, iterations=ITERATIONS, **keys):
    entry = {"run": "Reciprocator", "env": "ipd_v0", "stop": {"training_iteration": iterations}, "config": CONFIG}
    file = folder / "run.yaml"
    file.write_text(json.dumps({"run": {**entry, "checkpoint_freq": 5, **keys}}))
    return str(file)


@pytest.fixture(scope="module")
def uninterrupted_results(ray_cluster):
    """Trains the same run without interruption and returns its metrics by iteration."""
    from rllib_reciprocator.experiments.validation import build_config

    algo = build_config(Reciprocator, "ipd_v0", CONFIG).build_algo()
    by_iteration = {}
    for iteration in range(1, ITERATIONS + 1):
        metrics = algo.train()["env_runners"]
        by_iteration[iteration] = json.loads(json.dumps({key: metrics[key] for key in FIGURES}, default=float))
    algo.stop()
    return by_iteration


def interrupt_run(file, storage, number):
    """Starts a run and sends it a signal; returns its exit code and, unless it was killed, its output."""
    process = subprocess.Popen(
        [RLLIB, "train", "file", file, "--storage-path", str(storage)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.time() + 60
    while time.time() < deadline:
        files = list((storage / "run").glob("*/result.json"))
        if files and files[0].read_text().count("\n") >= 23:
            break
        time.sleep(0.02)
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
        return process.wait(), ""
    ray_processes = [
        child for child in psutil.Process(process.pid).children(recursive=True) if "ray" in " ".join(child.cmdline())
    ]
    assert ray_processes
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    _, survivors = psutil.wait_procs(ray_processes, timeout=20)
    assert not survivors
    return process.returncode, output


@pytest.mark.processes
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_resumes_to_the_same_results(tmp_path, uninterrupted_results, number, code):
    file = write_experiment(tmp_path)
    exit_code, output = interrupt_run(file, tmp_path, number)
    assert exit_code == code, output
    before = results(tmp_path / "run")
    assert 23 <= len(before) < ITERATIONS, "the run was not ended in the middle"
    if number != signal.SIGKILL:
        (message,) = [line for line in output.splitlines() if "interrupted" in line]
        pattern = r"rllib: run: interrupted at iteration (\d+), checkpoint at (\d+); continue with --resume"
        last, checkpoint = map(int, re.fullmatch(pattern, message).groups())
        assert last == max(before)
        # The run may have been interrupted while it saved the newest checkpoint.
        assert checkpoint in (last // 5 * 5, last // 5 * 5 - 5)
    result = invoke("train", "file", file, "--storage-path", str(tmp_path), "--resume")
    assert result.exit_code == 0, result.stderr
    assert results(tmp_path / "run") == uninterrupted_results


@pytest.mark.processes
def test_resume_with_a_longer_or_shorter_stop(tmp_path, uninterrupted_results):
    storage = ("--storage-path", str(tmp_path))
    file = write_experiment(tmp_path, 4)
    assert invoke("train", "file", file, *storage).exit_code == 0
    assert set(results(tmp_path / "run")) == {1, 2, 3, 4}
    longer = invoke("train", "file", file, *storage, "--resume", "--stop", "{training_iteration: 7}")
    assert longer.exit_code == 0, longer.stderr
    assert results(tmp_path / "run") == {key: uninterrupted_results[key] for key in range(1, 8)}
    # Iterations after the new stop criterion are kept, and no further iteration is run.
    shorter = invoke("train", "file", file, *storage, "--resume", "--stop", "{training_iteration: 5}")
    assert shorter.exit_code == 0, shorter.stderr
    assert set(results(tmp_path / "run")) == set(range(1, 8))
    for change, difference in (
        (("--seed", "9"), "config.seed (3, now 9)"),
        (("--checkpoint-freq", "2"), "checkpoint_freq (5, now 2)"),
    ):
        result = invoke("train", "file", file, *storage, "--resume", *change)
        assert result.exit_code == 2
        assert f"was run with other settings: {difference}" in result.stderr
        assert result.stderr.count("\n") == 1


def test_resume_refuses_changed_settings_and_incomplete_files(tmp_path, caplog):
    entry = {
        "run": "PPO",
        "env": "ipd_v0",
        "config": {"lr": 0.1, "players": {"*": "ppo"}},
        "stop": {"training_iteration": 3},
    }
    folder = str(tmp_path / "x")
    with pytest.raises(UserError, match="has no experiment to continue"):
        check_resumable(typed("x", entry, "f"), folder)
    describe(typed("x", entry, "f"), folder)
    (tmp_path / "x" / "tuner.pkl").write_text("")
    assert not check_resumable(typed("x", entry, "f"), folder), "the run was killed before its state was saved"
    tuner, state = tmp_path / "x" / "tuner.pkl", tmp_path / "x" / "experiment_state-2026-01-01_10-00-00.json"
    complete = pickle.dumps({})
    # A full disk or a kill leaves a truncated or empty file.
    for tuner_part, state_part, broken in (
        (b"", b"{}", tuner),
        (complete[:-1], b"{}", tuner),
        (complete, b"{half", state),
        (complete, b"", state),
    ):
        tuner.write_bytes(tuner_part)
        state.write_bytes(state_part)
        problem = f"{broken} is incomplete: the disk was full or the run was killed .* start a new run with --restore"
        with pytest.raises(UserError, match=problem):
            check_resumable(typed("x", entry, "f"), folder)
        with pytest.raises(UserError, match=problem):
            prepare(folder, StopAt({}), [])
    state.write_bytes(b"{}")
    assert check_resumable(typed("x", {**entry, "stop": {"training_iteration": 9}}, "f"), folder)
    changed_entry = {**entry, "seeds": 2, "config": {"lr": 0.2, "players": {"*": "ppo"}, "gamma": 0.9}}
    with pytest.raises(
        UserError, match=r"seeds \(None, now 2\); config\.lr \(0\.1, now 0\.2\); config\.gamma \(None, now 0\.9\)"
    ):
        check_resumable(typed("x", changed_entry, "f"), folder)
    (tmp_path / "x" / "experiment.json").write_text("half")
    with pytest.raises(UserError, match=r"experiment\.json cannot be read"):
        check_resumable(typed("x", entry, "f"), folder)
    (tmp_path / "x" / "experiment.json").unlink()
    check_resumable(typed("x", entry, "f"), folder)
    assert "did not save its settings" in caplog.messages[-1]


def test_full_disk_is_refused_before_ray_starts(no_ray, tmp_path):
    """Simulates a full disk by a limit on the file size."""
    file = write_experiment(tmp_path, 1)
    old_limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, old_limits[1]))
    try:
        result = invoke("train", "file", file, "--storage-path", str(tmp_path / "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limits)
    one_line(result, f"--storage-path {tmp_path / 'out'}: results cannot be written there ([Errno 27] File too large)")


def test_missing_metric_ends_the_run_with_one_line(ray_cluster, tmp_path):
    file = write_experiment(tmp_path, 5, stop={"learners/player_0/plicy_loss": 1.0})
    result = invoke("train", "file", file, "--storage-path", str(tmp_path))
    assert result.exit_code == 2, result.stdout
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("rllib: ")]
    assert line.startswith("rllib: run.stop.learners/player_0/plicy_loss is not in the results; did you mean")
    assert "learners/player_0/policy_loss" in line


@pytest.mark.processes
def test_newest_of_two_runs_with_the_same_name_is_used(ray_cluster, tmp_path):
    file = write_experiment(tmp_path, 1, checkpoint_freq=0)
    for _ in range(2):
        assert invoke("train", "file", file, "--storage-path", str(tmp_path)).exit_code == 0
    assert len(list((tmp_path / "run").glob("Reciprocator_*"))) == 2
    folder, page = str(tmp_path / "run"), str(tmp_path / "report.html")
    for command in (("evaluate", folder, "--episodes", "3"), ("report", folder, "--out", page)):
        result = invoke(*command)
        assert result.exit_code == 0, result.stderr
        assert "was run 2 times; the newest run, of " in result.stderr
