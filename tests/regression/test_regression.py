"""Tests that seeded runs and stored checkpoints reproduce recorded numbers exactly.

The numbers in ``tests/data/regression`` were recorded by :mod:`tests.regression.record`, in one file for each kind of
CPU, and are valid for the versions that are stored with them; with others the tests are skipped.
"""

import json
import os
import shutil

import pytest
from ray.rllib.algorithms.algorithm import Algorithm

from tests.regression.record import (
    DATA,
    ITERATIONS,
    evaluation,
    machine,
    numbers,
    numbers_file,
    train_with_tune,
    unpack_frozen,
    with_frozen_player,
)
from tests.regression.runs import RUNS

HERE = machine()
RECORDED = json.loads(numbers_file().read_text()) if numbers_file().exists() else {"machine": "no such CPU"}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        RECORDED["machine"] != HERE, reason=f"numbers were recorded with {RECORDED['machine']}, not with {HERE}"
    ),
]
NAMES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            RUNS[name].algorithm == "PPO" and os.environ.get("PYTHONHASHSEED") != "0",
            reason="RLlib's env runners iterate over sets: set PYTHONHASHSEED=0",
        ),
    )
    for name in RUNS
]


def assert_equal_numbers(actual, expected):
    """Compares weights and metrics; a metric that is missing on one side is a difference."""
    for kind in ("weights", "metrics"):
        differences = {
            key: (actual[kind].get(key), expected[kind].get(key))
            for key in sorted({*actual[kind], *expected[kind]})
            if actual[kind].get(key) != expected[kind].get(key)
        }
        assert not differences, f"{len(differences)} {kind} differ"


def test_every_run_is_recorded():
    assert RECORDED["runs"].keys() == RUNS.keys()
    assert all(len(rows) == ITERATIONS for rows in RECORDED["runs"].values())


@pytest.mark.parametrize("name", NAMES)
def test_runs_match_the_recorded_numbers(build, tmp_path, name):
    algo = build(RUNS[name].config(unpack_frozen()))
    for expected in RECORDED["runs"][name]:
        assert_equal_numbers(numbers(algo, algo.train()), expected)


@pytest.mark.parametrize("way", ["from_checkpoint", "restore_from_path"])
@pytest.mark.parametrize("name", NAMES)
def test_stored_checkpoints_continue_with_the_recorded_numbers(build, tmp_path, name, way):
    checkpoint = tmp_path / "checkpoint"
    shutil.unpack_archive(DATA / f"{name}.zip", checkpoint)
    if way == "from_checkpoint":
        algo = Algorithm.from_checkpoint(str(checkpoint))
    else:
        algo = build(RUNS[name].config(unpack_frozen()))
        algo.restore_from_path(str(checkpoint))
    try:
        for expected in RECORDED["restored"][name]:
            assert_equal_numbers(numbers(algo, algo.train()), expected)
    finally:
        algo.stop()


@pytest.mark.parametrize("name", NAMES)
def test_players_of_stored_checkpoints_match_the_recorded_numbers(ray_cluster, tmp_path, name):
    shutil.unpack_archive(DATA / f"{name}.zip", tmp_path)
    assert evaluation(tmp_path) == RECORDED["evaluations"][name]
    assert_equal_numbers(with_frozen_player(name, tmp_path), RECORDED["frozen"][name])


def test_stored_results_folders_are_resumed(tmp_path):
    shutil.unpack_archive(DATA / "tune_folder.zip", tmp_path)
    assert train_with_tune(tmp_path, ITERATIONS, "--resume") == RECORDED["tune"]
