"""Checkpoints are looked through before anything of them runs."""

import io
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.checkpoints import (
    MODULE_PATH,
    TRUST,
    check_pickles,
    find_checkpoint,
    newest_trials,
    read_constructor,
    unpickle,
)
from rllib_reciprocator.evaluation import open_evaluator
from rllib_reciprocator.experiments.validation import build_config
from rllib_reciprocator.restricted_pickle import ConstructorUnpickler
from tests.forged_pickles import PROTO, STOP, Touch, named

RLLIB = str(Path(sys.executable).with_name("rllib"))


@pytest.fixture(scope="module")
def checkpoint(ray_cluster, tmp_path_factory):
    algo = build_config(algorithm_class("Reciprocator"), "ipd_v0", {"num_envs_per_env_runner": 4}).build_algo()
    folder = tmp_path_factory.mktemp("checkpoint") / "good"
    algo.save_to_path(folder)
    algo.stop()
    return folder


def poisoned(checkpoint, folder, place):
    shutil.copytree(checkpoint, folder / "bad")
    (folder / "bad" / place).write_bytes(pickle.dumps({"x": Touch(folder / "executed")}))
    return folder / "bad"


PLACES = (
    "class_and_ctor_args.pkl",
    MODULE_PATH / "player_0" / "class_and_ctor_args.pkl",
    MODULE_PATH / "player_0" / "module_state.pkl",
    MODULE_PATH / "module_state.pkl",
)


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("command", ["evaluate", "tournament", "train", "player"])
def test_no_code_of_a_checkpoint_runs(checkpoint, tmp_path, place, command):
    from tests.cli.test_cli import invoke, one_line

    if command == "player" and "player_0" not in str(place):
        pytest.skip("a frozen player's own folder is all that is read")
    bad = poisoned(checkpoint, tmp_path, place)
    train = ("train", "--algo", "Reciprocator", "--env", "ipd_v0", "--stop", "{training_iteration: 1}")
    arguments = {
        "evaluate": ("evaluate", str(bad)),
        "tournament": ("tournament", str(bad), "scripted/tit_for_tat", "--out", str(tmp_path / "out")),
        "train": (*train, "--restore", str(bad), "--storage-path", str(tmp_path / "out")),
        "player": (*train, "--config", json.dumps({"players": {"player_0": f"checkpoint/{bad}", "player_1": "ppo"}})),
    }
    if command == "train" and str(place) == "class_and_ctor_args.pkl":
        return  # RLlib restores states, and leaves this one alone
    one_line(invoke(*arguments[command]), "posix.system" if "state" in str(place) else "args.pkl: ")
    assert not (tmp_path / "executed").exists()


def test_a_module_without_a_state_is_looked_through_too(checkpoint, tmp_path):
    """RLlib builds modules that it finds in a folder and does not have, from their constructors."""
    bad = tmp_path / "bad"
    shutil.copytree(checkpoint, bad)
    (bad / MODULE_PATH / "extra").mkdir()
    (bad / MODULE_PATH / "extra" / "class_and_ctor_args.pkl").write_bytes(pickle.dumps(Touch(tmp_path / "executed")))
    for folder in (bad, bad / MODULE_PATH, bad / MODULE_PATH / "extra"):
        with pytest.raises(ValueError, match=r"posix\.system"):
            check_pickles(folder)
    assert not (tmp_path / "executed").exists()


def test_with_trust_it_does(checkpoint, tmp_path):
    """So the test above would see it."""
    bad = poisoned(checkpoint, tmp_path, PLACES[0])
    done = subprocess.run([RLLIB, "evaluate", str(bad), "--trust"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (tmp_path / "executed").exists()


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


def test_classes_that_ray_changed_are_imported_by_their_names(tmp_path):
    """In a trial Ray puts a class of its own below the algorithm's, whose code RLlib's checkpoints then hold."""
    from ray import cloudpickle

    from rllib_reciprocator import Reciprocator

    changed = type("Reciprocator", (Reciprocator,), {"__module__": Reciprocator.__module__, "new": lambda self: 1})
    file = tmp_path / "class_and_ctor_args.pkl"
    file.write_bytes(cloudpickle.dumps({"class": changed, "ctor_args_and_kwargs": (({"lr": 1},), {})}))
    assert read_constructor(tmp_path) == (Reciprocator, ({"lr": 1},), {})
    own = type("Own", (Reciprocator,), {"__module__": "somebody.elses"})
    file.write_bytes(cloudpickle.dumps({"class": own, "ctor_args_and_kwargs": ((), {})}))
    with pytest.raises(ValueError, match=r"asks for somebody\.elses\.Own"):
        read_constructor(tmp_path)
    file.write_bytes(cloudpickle.dumps({"class": Reciprocator, "ctor_args_and_kwargs": (({"f": lambda: 1},), {})}))
    with pytest.raises(ValueError, match="--trust reads it"):
        read_constructor(tmp_path)


def test_code_of_another_version_is_not_needed_for_settings(tmp_path):
    """A class by value may name what this version no longer has; only its own name counts."""
    gone = PROTO + named("rllib_reciprocator.lost_learners", "Gone") + STOP
    file = tmp_path / "x.pkl"
    file.write_bytes(gone)
    with pytest.raises(ValueError, match=r"asks for rllib_reciprocator\.lost_learners\.Gone"):
        unpickle(file)
    assert ConstructorUnpickler(io.BytesIO(gone)).load().name == "Gone"


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cray.rllib.utils.from_config\nfrom_config\n(S'os.system'\ntR.",
        b"\x80\x04\x8c\x24ray.rllib.algorithms.algorithm_config\x8c\x0bpathlib.osx\x93.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n(ctorch\nSize\nS'__init__'\ntR.",
        b"ctorch\nload\n(S'x'\ntR.",
        b"cray.cloudpickle.cloudpickle\n_make_function\n.",
        b"cpickle\nloads\n(S'x'\ntR.",
        b"", b"half", b"\x80\x05",
    ],
)  # fmt: skip
def test_pickles_that_ask_for_more(tmp_path, content):
    file = tmp_path / "x.pkl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pkl: cannot be read"):
        unpickle(file)


def test_what_weights_and_settings_are_made_of_is_read(tmp_path):
    from collections import OrderedDict, defaultdict, deque
    from functools import partial

    import gymnasium
    import numpy as np

    from rllib_reciprocator.episodes.modules import _module_of

    weights = {
        "tensor": torch.arange(4.0).reshape(2, 2), "int": torch.arange(3), "array": np.eye(2, dtype=np.float32),
        "parameter": torch.nn.Parameter(torch.ones(2)), "scalar": np.float64(2.0), "ordered": OrderedDict(a=1),
        "order": np.asfortranarray(np.arange(6).reshape(2, 3)), "empty": np.zeros((0, 2)), "strided": np.arange(6)[::2],
    }  # fmt: skip
    settings = {
        "partial": partial(_module_of, {"a": "x"}), "space": gymnasium.spaces.Discrete(3, seed=1), "path": Path("/x"),
        "dict": gymnasium.spaces.Dict(a=gymnasium.spaces.Box(0.0, 1.0, (2,))), "rng": np.random.default_rng(1),
        "sets": ({1}, frozenset({2}), deque([3], 2)), "default": defaultdict(int, a=1), "slice": slice(1, 2),
    }  # fmt: skip
    file = tmp_path / "class_and_ctor_args.pkl"
    file.write_bytes(pickle.dumps(weights))
    read = unpickle(file)
    assert all(np.array_equal(read[name].detach(), weights[name].detach()) for name in ("tensor", "int", "parameter"))
    assert all(np.array_equal(read[name], weights[name]) for name in ("array", "scalar", "order", "empty", "strided"))
    assert read["ordered"] == weights["ordered"]
    file.write_bytes(pickle.dumps({"class": dict, "ctor_args_and_kwargs": ((), settings)}))
    _, _, read = read_constructor(tmp_path)
    assert all(read[name] == settings[name] for name in ("space", "dict", "sets", "path", "default", "slice"))
    assert read["rng"].random() == settings["rng"].random()
    assert read["partial"]("a") == "x"


def test_msgpack_may_hold_pickles(tmp_path):
    (tmp_path / "state.msgpack").write_bytes(b"")
    with pytest.raises(ValueError, match="may hold pickles"):
        check_pickles(tmp_path)


def test_trust_is_a_switch_of_the_process(tmp_path, monkeypatch):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Touch(tmp_path / "executed")))
    monkeypatch.setenv(TRUST, "1")
    check_pickles(tmp_path)
    assert unpickle(tmp_path / "x.pkl") == 0
    assert (tmp_path / "executed").exists()


def state_of(folder, when, trials):
    described = [[json.dumps({"relative_logdir": trial}), "{}"] for trial in trials]
    (folder / f"experiment_state-{when}.json").write_text(json.dumps({"trial_data": described}))


def test_of_several_runs_of_one_name_the_newest_is_taken(checkpoint, tmp_path, caplog):
    for trial in ("PPO_a_00000", "PPO_b_00000"):
        shutil.copytree(checkpoint, tmp_path / trial / "checkpoint_000000")
        (tmp_path / trial / "params.json").write_text("{}")
    state_of(tmp_path, "2026-01-01_10-00-00", ["PPO_a_00000"])
    with pytest.raises(ValueError, match="has the checkpoints of 2 trials; give one of PPO_a_00000, PPO_b_00000"):
        find_checkpoint(tmp_path)
    state_of(tmp_path, "2026-01-01_11-00-00", ["PPO_b_00000"])
    assert find_checkpoint(tmp_path) == tmp_path / "PPO_b_00000" / "checkpoint_000000"
    assert caplog.messages == [f"{tmp_path}: was run 2 times; the newest, of 2026-01-01 11-00-00, is taken"]
    caplog.clear()
    # A run that was resumed has two files, too, but all of its trials are in the newer one.
    state_of(tmp_path, "2026-01-01_12-00-00", ["PPO_a_00000", "PPO_b_00000"])
    assert len(newest_trials(tmp_path)) == 2
    assert not caplog.messages


@pytest.mark.parametrize(("game", "returns"), [("ipd", (-14.34, -11.52)), ("coins", (0.3, -0.2))])
def test_checkpoints_of_version_0_1_0_play_as_they_did(tmp_path, game, returns):
    """Saved and evaluated with that version (50 episodes, seed 1): who sees its balance is shown the same."""
    shutil.unpack_archive(Path(__file__).parent / "data" / f"reciprocator_0_1_0_{game}.zip", tmp_path)
    report = open_evaluator(tmp_path, seed=1).evaluate(50)["players"]
    assert tuple(row["return"]["mean"] for row in report.values()) == pytest.approx(returns, abs=1e-4)
    assert open_evaluator(tmp_path, seed=1).trace(3)["balance/player_0_towards_player_1"].abs().max() > 0
