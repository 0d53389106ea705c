"""Tests that checkpoints are checked before any of their code runs."""

import pickle
import shutil
import sys
import types

import pytest

from rllib_reciprocator.evaluation import open_evaluator
from rllib_reciprocator.utils.checkpoints import (
    MODULE_PATH,
    check_pickles,
    read_config,
)
from tests.helpers.checkpoints import PLACES, copy_with_malicious_pickle, copy_with_settings, read_command
from tests.helpers.commands import invoke, one_line
from tests.helpers.forged_pickles import Touch, canary, forged_into, forgeries


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("command", ["evaluate", "tournament", "train", "player"])
def test_no_code_of_a_checkpoint_runs(checkpoint, tmp_path, place, command):
    if command == "player" and "player_0" not in str(place):
        pytest.skip("only the folder of a frozen policy is read")
    bad = copy_with_malicious_pickle(checkpoint, tmp_path, place)
    result = invoke(*read_command(command, bad, tmp_path / "out"))
    one_line(result, "posix.system" if "state" in str(place) else "args.pkl: ")
    assert not (tmp_path / "executed").exists()


# Opcodes that had an effect in a genuine checkpoint when all classes of RLlib were allowed.
STATE_BUFFER = ("ray.rllib.connectors.agent.state_buffer", "StateBufferConnector")
FORGERIES = {
    "unpickles bytes": (*STATE_BUFFER, "REDUCE of a context and bytes"),
    "unpickles bytes as a state": (*STATE_BUFFER, "BUILD of bytes on an instance"),
    "patches a command": (
        "ray.rllib.examples.envs.classes.env_with_subprocess", "EnvWithSubprocess", "BUILD of slots on the class",
    ),
    "writes": ("ray.rllib.offline.json_writer", "JsonWriter", "REDUCE of a path"),
    "patches a listed class": ("ray.rllib.callbacks.callbacks", "RLlibCallback", "BUILD on the class"),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("command", ["evaluate", "tournament", "train", "player"])
def test_forged_checkpoints_are_refused_in_one_line(no_ray, checkpoint, tmp_path, command, forgery):
    """Uses forgeries that leave no object behind; the rest of each file is genuine."""
    module, name, effect = FORGERIES[forgery]
    opcodes = forgeries(module, name, tmp_path / "executed")[effect]
    # Only `train --restore` reads the learner's state, and it alone does not read the algorithm's constructor.
    place = {
        "evaluate": "class_and_ctor_args.pkl",
        "tournament": MODULE_PATH / "module_state.pkl",
        "train": MODULE_PATH.parent / "state.pkl",
        "player": MODULE_PATH / "player_0" / "class_and_ctor_args.pkl",
    }[command]
    bad = tmp_path / "bad"
    shutil.copytree(checkpoint, bad)
    (bad / place).write_bytes(forged_into((bad / place).read_bytes(), opcodes))
    with canary(tmp_path / "executed", imports=False):
        result = invoke(*read_command(command, bad, tmp_path / "out"))
    one_line(result, f"{bad / place}: cannot be read (it ")
    assert f"{module}.{name}, which is not on the list" in result.stderr
    assert "--trust reads it" in result.stderr


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"env": "untrusted_games:ipd_v0"}, "it imports untrusted_games, as 'untrusted_games:ipd_v0', which is not on"),
        ({"env": "untrusted_games:9_v0"}, "it imports untrusted_games, as 'untrusted_games:9_v0'"),
        ({"env": "untrusted-games:c"}, "it imports untrusted-games, as 'untrusted-games:c'"),
        ({"env": "cuda:0"}, "env imports cuda, which is not on the list"),
        ({"player_mapping": {"player_0": "module/untrusted_games:9"}}, "it imports untrusted_games"),
        ({"env_config": {"game": "untrusted_games:x_v0"}}, "it imports untrusted_games"),
        ({"env": "pettingzoo/untrusted_games"}, "env imports untrusted_games, which is not on the list"),
        ({"player_mapping": {"player_0": "module/untrusted_games:Module"}}, "it imports untrusted_games"),
        ({"intrinsic_settings": {"untrusted_games:REWARD": {}}}, "it imports untrusted_games"),
        (
            {"validate": list},
            "reciprocator.reciprocator.ReciprocatorConfig.validate",
        ),
        ({"__deepcopy__": list}, "ReciprocatorConfig.__deepcopy__"),
        ({"env": dict}, "which is not the name of an environment"),
        ({"class": dict}, "dict is not a config"),
        ({"policy_mapping_fn": {"type": "os.system"}}, "is not a function"),
        ({"callbacks_class": Touch}, "refers to tests.helpers.forged_pickles.Touch, which is not on the list"),
    ],
)
def test_settings_that_would_run_code_are_refused(checkpoint, tmp_path, monkeypatch, settings, complaint):
    """Checks plain values that name modules to import, or that replace methods."""
    (tmp_path / "untrusted_games.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    one_line(invoke("evaluate", str(copy_with_settings(checkpoint, tmp_path / "bad", **settings))), complaint)
    assert not (tmp_path / "executed").exists()


def test_imported_modules_may_be_named(checkpoint, tmp_path, monkeypatch):
    """Names the game of a script or command, whose code has been executed before."""
    named_game = copy_with_settings(checkpoint, tmp_path / "named", env="my_own_games:ipd_v0")
    with pytest.raises(ValueError, match="it imports my_own_games"):
        read_config(named_game)
    monkeypatch.setitem(sys.modules, "my_own_games", types.ModuleType("my_own_games"))
    assert open_evaluator(named_game).evaluate(2)["env"] == "my_own_games:ipd_v0"


def test_game_option_of_a_tournament_may_be_named(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "given_games.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    named_game = copy_with_settings(checkpoint, tmp_path / "named", env="given_games:ipd_v0")
    options = ("--env", "given_games:ipd_v0", "--games", "2", "--out", str(tmp_path / "out"))
    result = invoke("tournament", f"mine={named_game}#player_0", "scripted/tit_for_tat", *options)
    assert result.exit_code == 0, result.output


def test_user_defined_class_needs_trust(checkpoint, tmp_path):
    bad = copy_with_settings(checkpoint, tmp_path / "bad", _learner_class=OwnLearner)
    result = invoke("evaluate", str(bad), "--episodes", "2")
    one_line(result, "refers to test_malicious_checkpoints.OwnLearner, which is not on the list")
    assert "; --trust reads it, and runs its code)" in result.stderr
    trusted_result = invoke("evaluate", str(bad), "--episodes", "2", "--trust")
    assert trusted_result.exit_code == 0, trusted_result.output


class OwnLearner:
    """Class that is not part of this package."""


def test_modules_without_a_state_are_checked(checkpoint, tmp_path):
    """Checks folders of additional modules, since RLlib builds modules from all constructors in a checkpoint."""
    bad = tmp_path / "bad"
    shutil.copytree(checkpoint, bad)
    (bad / MODULE_PATH / "extra").mkdir()
    (bad / MODULE_PATH / "extra" / "class_and_ctor_args.pkl").write_bytes(pickle.dumps(Touch(tmp_path / "executed")))
    for folder in (bad, bad / MODULE_PATH, bad / MODULE_PATH / "extra"):
        with pytest.raises(ValueError, match=r"posix\.system"):
            check_pickles(folder)
    assert not (tmp_path / "executed").exists()


def test_code_of_a_trusted_checkpoint_runs(checkpoint, tmp_path):
    """Shows that the tests above would detect code that runs."""
    bad = copy_with_malicious_pickle(checkpoint, tmp_path, PLACES[0])
    result = invoke("evaluate", str(bad), "--trust")
    assert result.exit_code == 2
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("command", [("train",), ("train", "file"), ("example", "run")])
def test_help_says_that_a_run_folder_is_code(command):
    help_text = " ".join(invoke(*command, "--help").stdout.split())
    assert "Resume only run folders that you trust" in help_text
    assert ("MODULE:NAME, are imported" in help_text) == (command == ("train", "file"))
