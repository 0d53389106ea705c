"""Runs and sweeps on a real Ray cluster of two nodes on one machine, and a node that dies."""

import json
import subprocess
import sys
import time

import pytest

RUN = """
distributed:
  run: {run}
  env: ipd_v0
  stop: {{training_iteration: {iterations}}}
  checkpoint_freq: 1
  config:
    players: {{"*": reciprocator}}
    num_env_runners: 2
    restart_failed_env_runners: true
    {settings}
"""
ALGORITHMS = {
    "Reciprocator": "num_envs_per_env_runner: 32",
    "PPO": (
        "reciprocity: {reward: petty, weight: 5.0}\n    rollout_fragment_length: 64\n    minibatch_size: 64\n"
        "    train_batch_size_per_learner: 128\n    num_epochs: 1"
    ),
}


@pytest.fixture
def cluster():

    from ray.cluster_utils import Cluster

    # The head node has CPUs for the algorithm and one env runner only, so that the second env runner is on the second
    # node.
    local_cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    local_cluster.second = local_cluster.add_node(num_cpus=1)
    local_cluster.wait_for_nodes()
    yield local_cluster
    local_cluster.shutdown()


def command(file, storage, cluster):
    rllib = "from rllib_reciprocator.cli.main import main; main()"
    options = ["--storage-path", str(storage), "--ray-address", cluster.address]
    return [sys.executable, "-c", rllib, "train", "file", str(file), *options]


def iterations(storage):
    """Returns the last iteration that the run has reported, or 0."""
    for file in storage.glob("distributed/*/result.json"):
        lines = file.read_text().splitlines()
        if lines:
            return json.loads(lines[-1])["training_iteration"]
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_run_continues_when_a_node_dies(tmp_path, cluster, algorithm):
    file = tmp_path / "run.yaml"
    file.write_text(RUN.format(run=algorithm, iterations=40, settings=ALGORITHMS[algorithm]))
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command(file, tmp_path / "out", cluster), stdout=log, stderr=log)
        deadline = time.monotonic() + 240
        while iterations(tmp_path / "out") < 5:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        cluster.remove_node(cluster.second)
        assert process.wait(timeout=240) == 0, (tmp_path / "log").read_text()
    assert iterations(tmp_path / "out") == 40
    (file,) = (tmp_path / "out").glob("distributed/*/result.json")
    healthy = [json.loads(line)["fault_tolerance"]["num_healthy_workers"] for line in file.read_text().splitlines()]
    assert healthy[0] == 2
    assert min(healthy) == 1


@pytest.mark.slow
def test_sweep_runs_on_both_nodes(tmp_path, cluster):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        """
distributed:
  run: Reciprocator
  env: ipd_v0
  stop: {training_iteration: 20}
  seeds: 3
  config: {num_envs_per_env_runner: 16}
"""
    )
    process = subprocess.run(
        command(file, tmp_path / "out", cluster), capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith(f"ray          cluster at {cluster.address} (--ray-address)\n")
    assert "distributed: 3 trials of 1 settings" in process.stdout
    assert len(list((tmp_path / "out").glob("distributed/*/checkpoint_*"))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("source", ["RAY_ADDRESS", "none"])
def test_local_cluster_is_joined_only_if_its_address_is_set(tmp_path, cluster, monkeypatch, source):
    if source == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    file = tmp_path / "run.yaml"
    file.write_text(RUN.format(run="Reciprocator", iterations=1, settings=ALGORITHMS["Reciprocator"]))
    without_address = command(file, tmp_path / "out", cluster)[:-2]
    process = subprocess.run(without_address, capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 0, process.stderr
    origin = (
        f"cluster at {cluster.address} (RAY_ADDRESS)" if source == "RAY_ADDRESS" else "started on this machine with"
    )
    assert process.stdout.startswith(f"ray          {origin}")
