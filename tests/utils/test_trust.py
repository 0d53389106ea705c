"""Tests of checkpoints that name the user's own modules, and of trusted checkpoints."""

import pickle
import subprocess
import sys
import types

import pytest

from rllib_reciprocator.evaluation import open_evaluator
from rllib_reciprocator.utils.checkpoints import (
    TRUST,
    check_pickles,
    read_config,
    unpickle,
)
from tests.helpers.checkpoints import PLACES, RLLIB, copy_with_malicious_pickle, copy_with_settings
from tests.helpers.forged_pickles import Touch


def test_imported_modules_may_be_named(checkpoint, tmp_path, monkeypatch):
    """Names the game of a script or command, whose code has been executed before."""
    named_game = copy_with_settings(checkpoint, tmp_path / "named", env="my_own_games:ipd_v0")
    with pytest.raises(ValueError, match="it imports my_own_games"):
        read_config(named_game)
    monkeypatch.setitem(sys.modules, "my_own_games", types.ModuleType("my_own_games"))
    assert open_evaluator(named_game).evaluate(2)["env"] == "my_own_games:ipd_v0"


def test_game_option_of_a_tournament_may_be_named(checkpoint, tmp_path, monkeypatch):
    from tests.cli.test_cli import invoke

    (tmp_path / "given_games.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    named_game = copy_with_settings(checkpoint, tmp_path / "named", env="given_games:ipd_v0")
    options = ("--env", "given_games:ipd_v0", "--games", "2", "--out", str(tmp_path / "out"))
    result = invoke("tournament", f"mine={named_game}#player_0", "scripted/tit_for_tat", *options)
    assert result.exit_code == 0, result.output


def test_user_defined_class_needs_trust(checkpoint, tmp_path, monkeypatch):
    from tests.cli.test_cli import invoke, one_line

    bad = copy_with_settings(checkpoint, tmp_path / "bad", _learner_class=OwnLearner)
    result = invoke("evaluate", str(bad), "--episodes", "2")
    one_line(result, "refers to test_trust.OwnLearner, which is not on the list")
    assert "; --trust reads it, and runs its code)" in result.stderr
    monkeypatch.setenv(TRUST, "0")  # so that it is reset afterwards
    trusted_result = invoke("evaluate", str(bad), "--episodes", "2", "--trust")
    assert trusted_result.exit_code == 0, trusted_result.output


class OwnLearner:
    """Class that is not part of this package."""


def test_code_of_a_trusted_checkpoint_runs(checkpoint, tmp_path):
    """Shows that the tests above would detect code that runs."""
    bad = copy_with_malicious_pickle(checkpoint, tmp_path, PLACES[0])
    result = subprocess.run([RLLIB, "evaluate", str(bad), "--trust"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert (tmp_path / "executed").exists()


def test_trust_applies_to_the_process(tmp_path, monkeypatch):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Touch(tmp_path / "executed")))
    monkeypatch.setenv(TRUST, "1")
    check_pickles(tmp_path)
    assert unpickle(tmp_path / "x.pkl") == 0
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("command", [("train",), ("train", "file"), ("example", "run")])
def test_help_says_that_a_run_folder_is_code(command):
    from tests.cli.test_cli import invoke

    help_text = " ".join(invoke(*command, "--help").stdout.split())
    assert "Resume only run folders that you trust" in help_text
    assert ("MODULE:NAME, are imported" in help_text) == (command == ("train", "file"))
