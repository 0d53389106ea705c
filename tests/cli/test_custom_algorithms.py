"""Algorithms from outside the package in YAML files and on the command line."""

import json

import pytest
import torch
from ray.tune import register_trainable

from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.experiments.schema import read_file
from rllib_reciprocator.experiments.validation import check
from tests.helpers.algorithms import HalvedRewards
from tests.helpers.batches import prepared_batch
from tests.helpers.commands import invoke, one_line

PATH = "tests.helpers.algorithms:HalvedRewards"


def write_file(folder, run, **config):
    file = folder / "custom.yaml"
    settings = {"num_envs_per_env_runner": 8, "env_config": {"num_steps": 4}, "num_epochs": 1, "seed": 1, **config}
    entry = {"run": run, "env": "ipd_v0", "stop": {"training_iteration": 1}, "config": settings}
    file.write_text(json.dumps({"custom": entry}))
    return str(file)


def test_an_algorithm_is_named_by_its_import_path_or_by_its_registered_name():
    assert algorithm_class(PATH) is HalvedRewards
    register_trainable("halved", HalvedRewards)
    assert algorithm_class("halved") is HalvedRewards


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("tests.helpers.missing:HalvedRewards", "cannot be imported (No module named"),
        ("tests.helpers.algorithms:Missing", "cannot be imported (module"),
        (":Missing", "cannot be imported"),
        (
            "tests.helpers.algorithms:HalvedRewardsConfig",
            "is not a subclass of ray.rllib.algorithms.algorithm.Algorithm",
        ),
    ],
)
def test_a_path_without_an_algorithm_is_refused_in_one_line(tmp_path, run, message):
    refusal = invoke("train", "file", write_file(tmp_path, run))
    one_line(refusal, f"{tmp_path / 'custom.yaml'}: custom.run: '{run}' {message}")


def test_settings_are_validated_as_those_of_built_in_algorithms(tmp_path):
    refusal = invoke("train", "file", write_file(tmp_path, PATH, clip_parm=0.1))
    assert refusal.exit_code == 2
    assert "config.clip_parm" in refusal.stderr
    assert "did you mean 'clip_param'" in refusal.stderr
    (experiment,) = read_file(write_file(tmp_path, PATH, reciprocity={"weight": 0.5}))
    assert check(experiment, "custom.yaml") is HalvedRewards


def test_the_players_of_an_algorithm_have_its_intrinsic_rewards(build):
    config = HalvedRewards.get_default_config().environment("ipd_v0", env_config={"num_steps": 4})
    algo = build(config.reciprocity(weight=0.0).env_runners(num_envs_per_env_runner=8))
    batch, _ = prepared_batch(algo, algo.sample())
    assert torch.equal(batch.shaped_rewards, 0.5 * batch.rewards)
    assert batch.rewards.abs().sum() > 0


@pytest.mark.processes
def test_a_run_is_trained_and_its_checkpoint_is_evaluated_with_trust(tmp_path):
    training = invoke("train", "file", write_file(tmp_path, PATH), "--storage-path", str(tmp_path / "results"))
    assert training.exit_code == 0, training.output
    run = str(tmp_path / "results" / "custom")
    refusal = invoke("evaluate", run, "--episodes", "8")
    assert refusal.exit_code == 2
    assert "refers to tests.helpers.algorithms.HalvedRewards" in refusal.stderr
    assert "--trust" in refusal.stderr
    evaluation = invoke("evaluate", run, "--episodes", "8", "--trust")
    assert evaluation.exit_code == 0, evaluation.output
