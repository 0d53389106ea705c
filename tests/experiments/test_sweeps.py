"""Sweeps and faults of runs that are started from the command line; each test takes minutes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow
RLLIB = str(Path(sys.executable).with_name("rllib"))
SETTINGS = {
    "Reciprocator": {"num_envs_per_env_runner": 64},
    "PPO": {
        "players": {"*": "reciprocator"},
        "num_env_runners": 0,
        "rollout_fragment_length": 32,
        "num_envs_per_env_runner": 4,
        "train_batch_size_per_learner": 128,
        "minibatch_size": 64,
        "num_epochs": 1,
    },
}


def start_process(*arguments):
    return subprocess.Popen(
        [RLLIB, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def iterations(folder):
    """Returns the iterations that every trial has reported, by the folder name of the trial."""
    by_trial = {}
    for file in folder.glob("*/result.json"):
        lines = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
        by_trial[file.parent.name] = [line["training_iteration"] for line in lines]
    return by_trial


def wait_for(condition, process, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_killed_sweep_resumes_its_unfinished_trials(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        """
sweep:
  run: Reciprocator
  env: ipd_v0
  stop: {training_iteration: 30}
  checkpoint_freq: 5
  seeds: 2
  config: {num_envs_per_env_runner: 256, lr: {grid_search: [0.001, 0.005]}}
"""
    )
    arguments = ("train", "file", str(file), "--storage-path", (tmp_path / "out").as_uri(), "--ray-num-cpus", "1")
    folder = tmp_path / "out" / "sweep"
    first = start_process(*arguments)
    wait_for(lambda: any(steps[-1:] == [30] for steps in iterations(folder).values()), first)
    wait_for(lambda: sum(bool(steps) for steps in iterations(folder).values()) >= 2, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = iterations(folder)
    finished_trials = [trial for trial, steps in before.items() if steps[-1:] == [30]]
    assert 1 <= len(finished_trials) < 4
    second = start_process(*arguments, "--resume")
    output, _ = second.communicate(timeout=300)
    assert second.returncode == 0, output
    after = iterations(folder)
    assert len(after) == 4
    assert all(steps[-1] == 30 for steps in after.values())
    assert all(after[trial] == before[trial] for trial in finished_trials[:1])
    assert "sweep: 4 trials of 2 settings" in output
    assert (folder / "learning_curves.png").stat().st_size > 1000


def test_population_based_training(tmp_path):
    file = tmp_path / "pbt.yaml"
    file.write_text(
        """
pbt:
  run: Reciprocator
  env: ipd_v0
  stop: {training_iteration: 12}
  num_samples: 3
  metric: env_runners/episode_return_mean
  mode: max
  scheduler:
    type: pbt
    time_attr: training_iteration
    perturbation_interval: 3
    hyperparam_mutations: {lr: {tune: loguniform, args: [1.0e-4, 1.0e-2]}}
  config: {num_envs_per_env_runner: 32, lr: {tune: loguniform, args: [1.0e-4, 1.0e-2]}}
"""
    )
    process = start_process("train", "file", str(file), "--storage-path", str(tmp_path / "out"), "--ray-num-cpus", "3")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    policy_files = list((tmp_path / "out" / "pbt").glob("pbt_policy_*.txt"))
    assert policy_files, "no trial copied a better one"
    line = json.loads(policy_files[0].read_text().splitlines()[0])
    assert line[4]["lr"] != line[5]["lr"]


@pytest.mark.parametrize(("algorithm", "learners"), [("PPO", 1), ("PPO", 2), ("Reciprocator", 2)])
def test_lost_learner_ends_the_run_with_one_line_and_it_can_be_resumed(tmp_path, algorithm, learners):
    settings = {**SETTINGS[algorithm], "num_learners": learners}
    entry = {"run": algorithm, "env": "ipd_v0", "checkpoint_freq": 1, "stop": {"training_iteration": 40}}
    file = tmp_path / "lost.yaml"
    file.write_text(json.dumps({"lost": {**entry, "config": settings}}))
    arguments = ("train", "file", str(file), "--storage-path", str(tmp_path / "out"))
    first = start_process(*arguments)
    folder = tmp_path / "out" / "lost"
    wait_for(lambda: any(len(steps) >= 3 for steps in iterations(folder).values()), first)
    workers = psutil.Process(first.pid).children(recursive=True)
    learner_processes = [worker for worker in workers if "_WrappedExecutable" in " ".join(worker.cmdline())]
    assert len(learner_processes) == learners
    learner_processes[-1].send_signal(signal.SIGKILL)
    output, _ = first.communicate(timeout=240)
    assert first.returncode == 1, output
    assert f"one of {learners} learners was lost" in output
    assert max(map(max, iterations(folder).values())) < 40
    second = start_process(*arguments, "--resume")
    output, _ = second.communicate(timeout=240)
    assert second.returncode == 0, output
    (steps,) = iterations(folder).values()
    assert steps[-1] == 40
