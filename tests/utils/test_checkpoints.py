"""Tests of checkpoints of other algorithms, games, versions and runs."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

from rllib_reciprocator.evaluation import open_evaluator
from rllib_reciprocator.utils.checkpoints import (
    find_checkpoint,
    newest_trials,
    warn_of_later_version,
)
from tests.cli.test_cli import no_ray

__all__ = ["no_ray"]


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
    from tests.cli.test_cli import invoke, one_line

    stop = ("--stop", "{training_iteration: 1}")
    one_line(invoke("train", *options, *stop, "--restore", str(checkpoint)), f"restore: {checkpoint}: {complaint}")


def test_a_checkpoint_of_a_later_version_gives_a_warning(checkpoint, tmp_path):
    from tests.cli.test_cli import invoke

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
