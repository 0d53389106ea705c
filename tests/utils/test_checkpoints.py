"""Tests that checkpoints are checked before any of their code runs."""

import io
import json
import pickle
import shutil
import subprocess
import sys
import types
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from ray import cloudpickle

from rllib_reciprocator.algorithms.registry import BATCHED, algorithm_class
from rllib_reciprocator.evaluation import open_evaluator
from rllib_reciprocator.experiments.validation import build_config
from rllib_reciprocator.utils.checkpoints import (
    MODULE_PATH,
    TRUST,
    check_pickles,
    describe,
    find_checkpoint,
    newest_trials,
    read_config,
    read_constructor,
    unpickle,
    warn_of_later_version,
)
from rllib_reciprocator.utils.restricted_pickle import ConstructorUnpickler
from tests.cli.test_cli import no_ray
from tests.helpers.forged_pickles import PROTO, STOP, Touch, canary, forged_into, forgeries, named

__all__ = ["no_ray"]
RLLIB = str(Path(sys.executable).with_name("rllib"))


@pytest.fixture(scope="module")
def checkpoint(ray_cluster, tmp_path_factory):
    algo = build_config(algorithm_class("Reciprocator"), "ipd_v0", {"num_envs_per_env_runner": 4}).build_algo()
    folder = tmp_path_factory.mktemp("checkpoint") / "good"
    algo.save_to_path(folder)
    algo.stop()
    return folder


def copy_with_malicious_pickle(checkpoint, folder, place):
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


def read_command(command, folder, out):
    """Returns the arguments of a command that reads a checkpoint."""
    train = ("train", "--algo", "Reciprocator", "--env", "ipd_v0", "--stop", "{training_iteration: 1}")
    players = {"player_0": f"checkpoint/{folder}", "player_1": "ppo"}
    return {
        "evaluate": ("evaluate", str(folder)),
        "tournament": ("tournament", str(folder), "scripted/tit_for_tat", "--out", str(out)),
        "train": (*train, "--restore", str(folder), "--storage-path", str(out)),
        "player": (*train, "--config", json.dumps({"players": players})),
    }[command]


def copy_with_settings(checkpoint, folder, **settings):
    """Copies a checkpoint and changes its settings."""
    shutil.copytree(checkpoint, folder)
    file = folder / "class_and_ctor_args.pkl"
    content = pickle.loads(file.read_bytes())
    content["ctor_args_and_kwargs"][0][0].update(settings)
    file.write_bytes(cloudpickle.dumps(content))
    return folder


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
    from tests.cli.test_cli import invoke, one_line

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
    one_line(result, "refers to test_checkpoints.OwnLearner, which is not on the list")
    assert "; --trust reads it, and runs its code)" in result.stderr
    monkeypatch.setenv(TRUST, "0")  # so that it is reset afterwards
    trusted_result = invoke("evaluate", str(bad), "--episodes", "2", "--trust")
    assert trusted_result.exit_code == 0, trusted_result.output


class OwnLearner:
    """Class that is not part of this package."""


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


def assert_is_read(folder):
    """Checks that every reader accepts a checkpoint."""
    check_pickles(folder)
    config = read_config(folder)
    description = describe(folder)
    assert (description.algorithm, description.env) == (config.algo_class.__name__, config.env)
    for module in (folder / MODULE_PATH).iterdir():
        if module.is_dir():
            read_constructor(module)


WITH_TWO_LEARNERS = [pytest.param(name, 2, marks=pytest.mark.slow) for name in BATCHED if name != "Reciprocator"]


@pytest.mark.parametrize(
    ("name", "learners"), [*((name, 0) for name in BATCHED), ("Reciprocator", 2), *WITH_TWO_LEARNERS]
)
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
    result = subprocess.run([RLLIB, "evaluate", str(bad), "--trust"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
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


def test_classes_that_ray_subclassed_are_imported_by_name(tmp_path):
    """Covers Tune trials, in which Ray subclasses the algorithm and checkpoints contain the code of the subclass."""
    from rllib_reciprocator import Reciprocator

    subclass = type("Reciprocator", (Reciprocator,), {"__module__": Reciprocator.__module__, "new": lambda self: 1})
    file = tmp_path / "class_and_ctor_args.pkl"
    file.write_bytes(cloudpickle.dumps({"class": subclass, "ctor_args_and_kwargs": (({"lr": 1},), {})}))
    assert read_constructor(tmp_path) == (Reciprocator, ({"lr": 1},), {})
    user_class = type("Own", (Reciprocator,), {"__module__": "users.package"})
    file.write_bytes(cloudpickle.dumps({"class": user_class, "ctor_args_and_kwargs": ((), {})}))
    with pytest.raises(ValueError, match=r"refers to users\.package\.Own"):
        read_constructor(tmp_path)
    file.write_bytes(cloudpickle.dumps({"class": Reciprocator, "ctor_args_and_kwargs": (({"f": lambda: 1},), {})}))
    with pytest.raises(ValueError, match="contains the code of a function, which is not on the list; --trust"):
        read_constructor(tmp_path)
    user_class = type("Own", (), {"__module__": "__main__"})
    file.write_bytes(
        cloudpickle.dumps({"class": Reciprocator, "ctor_args_and_kwargs": (({"callbacks": user_class},), {})})
    )
    with pytest.raises(
        ValueError, match=r"contains the code of __main__\.Own, which is not on the list; --trust reads it"
    ):
        read_constructor(tmp_path)


def test_settings_do_not_need_classes_of_other_versions(tmp_path):
    """Reads a class that does not exist in this version: only its name is used."""
    content = PROTO + named("rllib_reciprocator.utils.gone", "Gone") + STOP
    file = tmp_path / "x.pkl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"refers to rllib_reciprocator\.utils\.gone\.Gone"):
        unpickle(file)
    assert ConstructorUnpickler(io.BytesIO(content)).load().name == "Gone"


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
def test_forbidden_and_broken_pickles_are_refused(tmp_path, content):
    file = tmp_path / "x.pkl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pkl: cannot be read"):
        unpickle(file)


def test_types_of_weights_and_settings_are_read(tmp_path):
    from collections import OrderedDict, defaultdict, deque
    from functools import partial

    import gymnasium
    import numpy as np

    from rllib_reciprocator.rllib_episodes.modules import _module_of

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
    result = unpickle(file)
    assert all(np.array_equal(result[name].detach(), weights[name].detach()) for name in ("tensor", "int", "parameter"))
    assert all(np.array_equal(result[name], weights[name]) for name in ("array", "scalar", "order", "empty", "strided"))
    assert result["ordered"] == weights["ordered"]
    file.write_bytes(pickle.dumps({"class": dict, "ctor_args_and_kwargs": ((), settings)}))
    _, _, result = read_constructor(tmp_path)
    assert all(result[name] == settings[name] for name in ("space", "dict", "sets", "path", "default", "slice"))
    assert result["rng"].random() == settings["rng"].random()
    assert result["partial"]("a") == "x"


def test_msgpack_files_are_refused(tmp_path):
    (tmp_path / "state.msgpack").write_bytes(b"")
    with pytest.raises(ValueError, match="may contain pickles"):
        check_pickles(tmp_path)


def test_trust_applies_to_the_process(tmp_path, monkeypatch):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Touch(tmp_path / "executed")))
    monkeypatch.setenv(TRUST, "1")
    check_pickles(tmp_path)
    assert unpickle(tmp_path / "x.pkl") == 0
    assert (tmp_path / "executed").exists()


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


@pytest.mark.parametrize("command", [("train",), ("train", "file"), ("example", "run")])
def test_help_says_that_a_run_folder_is_code(command):
    from tests.cli.test_cli import invoke

    help_text = " ".join(invoke(*command, "--help").stdout.split())
    assert "Resume only run folders that you trust" in help_text
    assert ("MODULE:NAME, are imported" in help_text) == (command == ("train", "file"))
