"""Records the numbers and checkpoints that :mod:`tests.regression.test_regression` compares with.

    OMP_NUM_THREADS=1 PYTHONHASHSEED=0 python -m tests.regression.record [NAME ..]

The hash seed is fixed because RLlib's env runners and learners iterate over sets of agents and modules.
The last bits of results depend on the CPU: there is one file of numbers for each kind of CPU. Stored checkpoints are
kept, and the numbers with which they continue on this machine are recorded; delete a checkpoint to record a new one.
Run this only for a new kind of CPU, or if numbers are meant to change, and state in the commit which changed and why.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm

from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.evaluation import open_evaluator
from rllib_reciprocator.experiments.validation import build_config
from tests.regression.runs import FROZEN, RUNS, SEED

DATA = Path(__file__).parents[1] / "data" / "regression"
ITERATIONS, SAVED_AFTER = 3, 1
# Run whose Tune results folder is stored too.
TUNED = "reciprocator_tabular"
RLLIB = str(Path(sys.executable).with_name("rllib"))
# Parts of the names of metrics that depend on the time or on the machine.
VOLATILE = (
    "since_restore", "duration", "time", "timer", "throughput", "date", "pid", "hostname", "node_ip", "trial_id",
    "perf", "config", "healthy",
)  # fmt: skip


def machine() -> dict[str, str]:
    """Returns properties of the machine that change the last bits of floating-point results."""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }


def numbers_file() -> Path:
    """Returns the file of the numbers for the CPU of this machine."""
    return DATA / f"numbers_{machine()['cpu'].replace(' ', '_').lower()}.json"


def digest(value: Any) -> str:
    """Returns a hash of an array's dtype, shape and bytes."""
    array = np.ascontiguousarray(value)
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()[:16]


def numbers(algo: Algorithm, result: dict[str, Any]) -> dict[str, Any]:
    """Returns hashes of all weights and the values of all metrics of an iteration."""
    weights = {
        f"{module_id}/{name}": digest(value)
        for module_id, module in sorted(algo.learner_group.get_weights().items())
        for name, value in module.items()
    }
    return {"weights": weights, "metrics": dict(sorted(scalars(result)))}


def scalars(result: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yields the paths and values of all numbers in a result, except for those of :data:`VOLATILE`."""
    if isinstance(result, dict):
        for key, value in result.items():
            if str(key) != "sample" and not any(word in str(key) for word in VOLATILE):
                yield from scalars(value, f"{path}/{key}" if path else str(key))
    elif isinstance(result, int | float | np.number):
        yield path, repr(float(result))


def unpack_frozen() -> str:
    """Unpacks the checkpoint of the frozen player to a fixed path, since checkpoints contain this path."""
    path = Path(tempfile.gettempdir()) / "rllib_reciprocator_regression" / "frozen"
    if not path.exists():
        folder = Path(tempfile.mkdtemp())
        shutil.unpack_archive(FROZEN, folder)
        path.parent.mkdir(exist_ok=True)
        folder.rename(path)
    return str(path)


def record(name: str) -> list[dict[str, Any]]:
    """Trains a run and returns the numbers of each iteration.

    Stores the checkpoint after the first iteration if there is none.
    """
    algo = RUNS[name].config(unpack_frozen()).build_algo()
    rows = []
    for iteration in range(1, ITERATIONS + 1):
        rows.append(numbers(algo, algo.train()))
        if iteration == SAVED_AFTER and not (DATA / f"{name}.zip").exists():
            with tempfile.TemporaryDirectory() as folder:
                algo.save_to_path(folder)
                shutil.make_archive(str(DATA / name), "zip", folder)
    algo.stop()
    return rows


def restored(checkpoint: Path) -> list[dict[str, Any]]:
    """Restores a checkpoint and returns the numbers of the remaining iterations.

    RLlib's env runners start new episodes after a restore, so these are not the numbers of the uninterrupted run.
    """
    algo = Algorithm.from_checkpoint(str(checkpoint))
    rows = [numbers(algo, algo.train()) for _ in range(SAVED_AFTER, ITERATIONS)]
    algo.stop()
    return rows


def evaluation(checkpoint: Path) -> dict[str, str]:
    """Returns the mean return of every agent in 8 episodes of a checkpoint's policies."""
    report = open_evaluator(checkpoint, seed=1).evaluate(8)["players"]
    return {agent: repr(row["return"]["mean"]) for agent, row in report.items()}


def with_frozen_player(name: str, checkpoint: Path) -> dict[str, Any]:
    """Trains PPO with a frozen player of a checkpoint for one iteration and returns the numbers."""
    run = RUNS[name]
    if run.algorithm == "PPO":
        algorithm, settings = "PPO", {key: value for key, value in run.settings.items() if key != "reciprocity"}
    else:
        algorithm = "COALA" if "meta" in run.settings else "Reciprocator"
        settings = {key: run.settings[key] for key in ("env_config", "meta") if key in run.settings}
        settings |= {"num_envs_per_env_runner": 16, "num_epochs": 1}
    settings["players"] = {"player_*": "ppo", run.frozen_player: f"checkpoint/{checkpoint}{run.frozen_source}"}
    config = build_config(algorithm_class(algorithm), run.env, {**settings, "seed": 3})
    algo = config.build_algo()
    row = numbers(algo, algo.train())
    algo.stop()
    # Metric names contain the path of the checkpoint.
    row["metrics"] = {path.replace(str(checkpoint), "CHECKPOINT"): value for path, value in row["metrics"].items()}
    return row


def train_with_tune(folder: Path, iterations: int, *options: str) -> dict[str, str]:
    """Trains :data:`TUNED` by ``rllib train file`` and returns the metrics of the last iteration."""
    run = RUNS[TUNED]
    stop = {"training_iteration": iterations}
    entry = {"run": run.algorithm, "env": run.env, "stop": stop, "checkpoint_freq": 1}
    file = folder / "run.yaml"
    file.write_text(json.dumps({"run": {**entry, "config": {"seed": SEED, **run.settings}}}))
    storage = ["--storage-path", str(folder / "results")]
    subprocess.run([RLLIB, "train", "file", str(file), *storage, *options], check=True, capture_output=True)
    (results,) = (folder / "results" / "run").glob("*/result.json")
    return dict(sorted(scalars(json.loads(results.read_text().splitlines()[-1]))))


def main() -> None:
    """Records all runs, or those given on the command line."""
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    DATA.mkdir(parents=True, exist_ok=True)
    names = sys.argv[1:] or list(RUNS)
    kinds = ("runs", "restored", "evaluations", "frozen")
    file = numbers_file()
    content = json.loads(file.read_text()) if file.exists() else {kind: {} for kind in kinds}
    for name in names:
        content["runs"][name] = record(name)
        with tempfile.TemporaryDirectory() as folder:
            shutil.unpack_archive(DATA / f"{name}.zip", folder)
            content["restored"][name] = restored(Path(folder))
            content["evaluations"][name] = evaluation(Path(folder))
            content["frozen"][name] = with_frozen_player(name, Path(folder))
        print(name, flush=True)
    if TUNED in names:
        if not (DATA / "tune_folder.zip").exists():
            with tempfile.TemporaryDirectory() as folder:
                train_with_tune(Path(folder), SAVED_AFTER)
                shutil.make_archive(str(DATA / "tune_folder"), "zip", folder)
        with tempfile.TemporaryDirectory() as folder:
            shutil.unpack_archive(DATA / "tune_folder.zip", folder)
            content["tune"] = train_with_tune(Path(folder), ITERATIONS, "--resume")
    content["machine"] = machine()
    file.write_text(json.dumps(content, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
