"""Tests that checkpoints are checked before any of their code runs."""

import pickle
import shutil

import pytest

from rllib_reciprocator.utils.checkpoints import (
    MODULE_PATH,
    check_pickles,
    find_checkpoint,
)
from tests.cli.test_cli import no_ray
from tests.helpers.checkpoints import PLACES, copy_with_malicious_pickle, copy_with_settings, read_command
from tests.helpers.forged_pickles import Touch, canary, forged_into, forgeries

__all__ = ["no_ray"]


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("command", ["evaluate", "tournament", "train", "player"])
def test_no_code_of_a_checkpoint_runs(checkpoint, tmp_path, place, command):
    from tests.cli.test_cli import invoke, one_line

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
    from tests.cli.test_cli import invoke, one_line

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
        ({"intrinsic_settings": {"untrusted_games:Reward": {}}}, "it imports untrusted_games"),
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
    from tests.cli.test_cli import invoke, one_line

    (tmp_path / "untrusted_games.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    one_line(invoke("evaluate", str(copy_with_settings(checkpoint, tmp_path / "bad", **settings))), complaint)
    assert not (tmp_path / "executed").exists()


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
