"""Tests that checkpoints of this package are found and read."""

import json
import pickle
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

from rllib_reciprocator.algorithms.registry import BATCHED, algorithm_class
from rllib_reciprocator.evaluation import open_evaluator
from rllib_reciprocator.experiments.validation import build_config
from rllib_reciprocator.utils.checkpoints import (
    MODULE_PATH,
    check_pickles,
    describe,
    find_checkpoint,
    newest_trials,
    read_config,
    read_constructor,
    warn_of_later_version,
)
from tests.helpers.commands import invoke, one_line
from tests.helpers.forged_pickles import Touch


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--algo", "LIO", "--env", "ipd_v0"), "is a checkpoint of Reciprocator, which LIO cannot start from"),
        (("--algo", "Reciprocator", "--env", "coins_v0"), "was trained in ipd_v0, but this run is in coins_v0"),
        (
            ("--algo", "Reciprocator", "--env", "giving_v0", "--config", "{env_config: {game: ipd_v0}}"),
            "was trained in ipd_v0, but this run is in giving_v0 around ipd_v0; give a checkpoint of giving_v0",
        ),
    ],
)
def test_checkpoints_of_other_algorithms_and_games_are_not_restored(no_ray, checkpoint, options, complaint):
    stop = ("--stop", "{training_iteration: 1}")
    one_line(invoke("train", *options, *stop, "--restore", str(checkpoint)), f"restore: {checkpoint}: {complaint}")


def test_a_checkpoint_of_a_later_version_gives_a_warning(checkpoint, tmp_path):
    later = tmp_path / "later"
    shutil.copytree(checkpoint, later)
    file = later / "rllib_checkpoint.json"
    metadata = json.loads(file.read_text())
    assert metadata["rllib_reciprocator_version"] == version("rllib_reciprocator")
    evaluate = ("evaluate", str(later), "--episodes", "2")
    assert "later" not in invoke(*evaluate).stderr.replace(str(later), "")
    file.write_text(json.dumps({**metadata, "rllib_reciprocator_version": "99.1"}))
    warn_of_later_version.cache_clear()
    result = invoke(*evaluate)
    assert result.exit_code == 0, result.output
    complaint = (
        "was written by rllib_reciprocator 99.1, which is later than the installed version"
        f" {version('rllib_reciprocator')}"
    )
    assert result.stderr.count(complaint) == 1


def assert_is_read(folder):
    """Checks that every reader accepts a checkpoint."""
    check_pickles(folder)
    config = read_config(folder)
    description = describe(folder)
    assert (description.algorithm, description.env) == (config.algo_class.__name__, config.env)
    for module in (folder / MODULE_PATH).iterdir():
        if module.is_dir():
            read_constructor(module)


WITH_TWO_LEARNERS = [
    pytest.param(name, 2, marks=pytest.mark.processes if name == "Reciprocator" else pytest.mark.slow)
    for name in BATCHED
]


@pytest.mark.parametrize(("name", "learners"), [*((name, 0) for name in BATCHED), *WITH_TWO_LEARNERS])
def test_genuine_checkpoints_of_the_engine_are_read(build, tmp_path, name, learners):
    """Trains one iteration with a pool of an online learner, a trained and a scripted player.

    Two learners wrap their modules for PyTorch's distributed training; their checkpoints name the wrapper.
    """
    default = algorithm_class(name).get_default_config()
    pool = {"pool": {"learner/pg": 0.5, "ppo": 0.3, "scripted/random": 0.2}}
    settings = {
        "num_envs_per_env_runner": 32, "num_learners": learners, "env_config": {"num_steps": 4},
        "players": {"player_0": default.default_player, "player_1": pool},
        "meta": {"inner_episodes": 2, "copies": 4},
    }  # fmt: skip
    algo = build(build_config(algorithm_class(name), "ipd_v0", settings))
    algo.train()
    algo.save_to_path(tmp_path)
    assert_is_read(tmp_path)


@pytest.mark.parametrize("remote", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["PPO", "APPO", "IMPALA"])
def test_genuine_checkpoints_of_rllibs_algorithms_are_read(build, tmp_path, name, remote):
    settings = {
        "num_learners": remote, "num_env_runners": remote, "rollout_fragment_length": 6, "env_config": {"num_steps": 6},
        "train_batch_size_per_learner": 24, "players": {"player_0": "reciprocator", "player_1": "scripted/tit_for_tat"},
        "reciprocity": {"observe_balance": True},
        **({"minibatch_size": 12, "num_epochs": 1} if name == "PPO" else {"min_time_s_per_iteration": 0}),
    }  # fmt: skip
    algo = build(build_config(algorithm_class(name), "ipd_v0", settings))
    algo.train()
    algo.save_to_path(tmp_path)
    assert_is_read(tmp_path)


def test_a_folder_that_rllib_did_not_write_is_refused_without_reading_its_pickles(tmp_path):
    folder = tmp_path / "foreign"
    (folder / MODULE_PATH).mkdir(parents=True)
    (folder / "class_and_ctor_args.pkl").write_bytes(pickle.dumps(Touch(tmp_path / "executed")))
    for content in (None, "not json", "[]", "{}"):
        if content is not None:
            (folder / "rllib_checkpoint.json").write_text(content)
        with pytest.raises(ValueError, match="not an Algorithm checkpoint"):
            find_checkpoint(folder)
    assert not (tmp_path / "executed").exists()


def write_experiment_state(folder, when, trials):
    trial_data = [[json.dumps({"relative_logdir": trial}), "{}"] for trial in trials]
    (folder / f"experiment_state-{when}.json").write_text(json.dumps({"trial_data": trial_data}))


def test_newest_of_several_runs_is_used(checkpoint, tmp_path, caplog):
    for trial in ("PPO_a_00000", "PPO_b_00000"):
        shutil.copytree(checkpoint, tmp_path / trial / "checkpoint_000000")
        (tmp_path / trial / "params.json").write_text("{}")
    write_experiment_state(tmp_path, "2026-01-01_10-00-00", ["PPO_a_00000"])
    with pytest.raises(ValueError, match="has the checkpoints of 2 trials; give one of PPO_a_00000, PPO_b_00000"):
        find_checkpoint(tmp_path)
    write_experiment_state(tmp_path, "2026-01-01_11-00-00", ["PPO_b_00000"])
    assert find_checkpoint(tmp_path) == tmp_path / "PPO_b_00000" / "checkpoint_000000"
    assert caplog.messages == [f"{tmp_path}: was run 2 times; the newest run, of 2026-01-01 11-00-00, is used"]
    caplog.clear()
    # A resumed run has two files as well, but the newer one lists all of its trials.
    write_experiment_state(tmp_path, "2026-01-01_12-00-00", ["PPO_a_00000", "PPO_b_00000"])
    assert len(newest_trials(tmp_path)) == 2
    assert not caplog.messages


@pytest.mark.parametrize(("game", "returns"), [("ipd", (-14.34, -11.52)), ("coins", (0.3, -0.2))])
def test_checkpoints_of_version_0_1_0_play_as_they_did(tmp_path, game, returns):
    """Compares with returns that were evaluated in version 0.1.0 (50 episodes, seed 1), with observed balances."""
    shutil.unpack_archive(Path(__file__).parents[1] / "data" / f"reciprocator_0_1_0_{game}.zip", tmp_path)
    report = open_evaluator(tmp_path, seed=1).evaluate(50)["players"]
    assert tuple(row["return"]["mean"] for row in report.values()) == pytest.approx(returns, abs=1e-4)
    assert open_evaluator(tmp_path, seed=1).trace(3)["balance/player_0_towards_player_1"].abs().max() > 0
