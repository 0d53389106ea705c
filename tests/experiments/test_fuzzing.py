"""Mutated versions of the shipped files are either valid or refused with one line and exit code 2; nothing starts."""

import copy
import os
import signal
from pathlib import Path

import hypothesis
import pytest
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from rllib_reciprocator.experiments import ray_cluster, storage
from tests.helpers.commands import invoke

CASES = int(os.environ.get("FUZZING_CASES", "500"))
LONGEST_LINE = 400
SECONDS = 30
FILES = sorted(Path("tuned_examples").resolve().glob("*.yaml"))
NAMES = (
    "run", "env", "stop", "config", "seeds", "scheduler", "metric", "mode", "players", "reciprocity", "env_config",
    "model_config", "lr", "num_steps", "evaluation_config", "restore", "storage_path", "loggers", "name", "_name", "",
    "lrr", "callbacks", "env_runner_cls", "policies", "<<", "grid_search", "tune", "player", "team", "module",
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        [
            None, True, False, -1, 0, 1, 2, 7, 10**9, 2**62, 2**63, -(10**30), 0.5, -0.5, 1e30, 1e308,
            float("nan"), float("inf"), float("-inf"), "", "x", "PPO", "DQN", "ipd_v0", "coins_v0", "CartPole-v1",
            "../../../evil", "/proc/foo", "~nouser/x", "a\0b", "y" * 500, "\ud83d\ude00", "s3://", "nosuch://x", "file:///",
            "scripted/tit_for_tat", "scripted/../x", "checkpoint/~nouser", "checkpoint//", "checkpoint/.#../..",
            "module/os:system", "module/nosuch", "team/", "axelrod/Nobody", "axelrod/TitForTat", "pettingzoo/../x",
            "pettingzoo/mpe/simple_v3", "pettingzoo/classic/nosuch_v1", "meltingpot/nosuch", "os:system", "nosuch:x_v0",
            "training_iteration", "env_runners/episode_return_mean", "env_runners/foo", "auto", "max", "2024-13-45",
            [], {}, [[]], [0], [-1], [10**9, 10**9], ["x"], [[0, 0.1], [5, -0.1]], {"x": 1}, {1: 2},
            {"grid_search": []}, {"grid_search": [1, "x"]}, {"tune": "uniform", "args": [0, 1]},
            {"tune": "choice", "args": [[]]}, {"tune": "loguniform", "args": [0, 1]}, {"tune": "nosuch"},
            {"type": "asha"}, {"type": "pbt"}, {"type": "pb2"}, {"type": ["a"]}, {"type": "optuna"},
            {"player": "ppo", "lr": "abc"},
            {"start": 1, "end": 0, "per_iteration": -1},
        ]
    ),
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.text(max_size=12),
    st.lists(st.integers(-3, 3), max_size=3),
)  # fmt: skip
SNIPPETS = (
    "&a [*a]", "!!python/object/apply:os.system ['touch executed']", "!!float abc", "!!timestamp x", "2024-13-45",
    "!!set {a}", "!!binary x", "[" * 3000, "{a: " * 300, "9" * 5000, "\t", "---\n", "? [a]\n", "*missing", "\x07",
    "\ufeff", "'", '"', "}", "%TAG", "!!int ''", "<<: {lr: 1}", "lr: 1\n    lr: 2", "!!omap [a: 1]", "@", "`", "|", ">",
    ": :", "- - -", "0x", "1e999", ".nan",
)  # fmt: skip


class StartedError(Exception):
    """Raised where Ray would be started, i.e. after all checks have passed."""


def paths(tree, prefix=()):
    """Yields the paths of all values of nested mappings and lists."""
    if prefix:
        yield prefix
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from paths(value, (*prefix, key))


@st.composite
def mutated_trees(draw):
    """Draws the YAML of a shipped file in which values are replaced and keys are renamed, added or deleted."""
    tree = copy.deepcopy(yaml.safe_load(draw(st.sampled_from(FILES)).read_text()))
    for _ in range(draw(st.integers(1, 3))):
        tree_paths = list(paths(tree))
        if not tree_paths:
            break
        *parent_keys, last = draw(st.sampled_from(tree_paths))
        container = tree
        for key in parent_keys:
            container = container[key]
        mutation = draw(st.sampled_from(["replace", "replace", "replace", "rename", "add", "delete"]))
        if mutation == "delete":
            del container[last]
        elif mutation == "replace" or not isinstance(container, dict):
            container[last] = copy.deepcopy(draw(VALUES))
        elif mutation == "rename":
            container[draw(st.sampled_from(NAMES))] = container.pop(last)
        else:
            container[draw(st.sampled_from(NAMES))] = copy.deepcopy(draw(VALUES))
    return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)


@st.composite
def mutated_texts(draw):
    """Draws the text of a shipped file in which parts are inserted, deleted, repeated or replaced."""
    text = draw(st.sampled_from(FILES)).read_text()
    for _ in range(draw(st.integers(1, 2))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 30)))
        mutation = draw(st.sampled_from(["insert", "delete", "repeat", "value", "text"]))
        if mutation == "insert":
            text = text[:start] + draw(st.sampled_from(SNIPPETS)) + text[start:]
        elif mutation == "delete":
            text = text[:start] + text[end:]
        elif mutation == "repeat":
            text = text[:end] + text[start:]
        elif mutation == "text":
            text = text[:start] + draw(st.text(max_size=5)) + text[end:]
        else:
            colon = text.find(": ", start)
            line = text.find("\n", colon)
            if colon >= 0:
                text = text[: colon + 2] + draw(st.sampled_from(SNIPPETS)) + text[line:]
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a working directory with a separate home directory; commands that run in it do not start Ray."""
    root = tmp_path_factory.mktemp("fuzzing")
    working_directory = root / "here"
    working_directory.mkdir()
    patch = pytest.MonkeyPatch()
    patch.chdir(working_directory)
    patch.setenv("HOME", str(root / "home"))

    def start(*args, **kwargs):
        raise StartedError

    patch.setattr(ray_cluster, "ray_running", start)
    patch.setattr(
        storage, "check_storage", lambda experiment: storage.FileSystem.from_uri(storage.storage_root(experiment))
    )
    yield working_directory
    patch.undo()


def raise_timeout(number, frame):
    raise TimeoutError(f"took more than {SECONDS} s")


@settings(max_examples=CASES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@hypothesis.given(text=st.one_of(mutated_trees(), mutated_texts()))
def test_mutated_files_are_valid_or_one_line(folder, text):
    file = folder / "mutated.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    signal.signal(signal.SIGALRM, raise_timeout)
    signal.alarm(SECONDS)
    try:
        result = invoke("train", "file", "mutated.yaml")
    finally:
        signal.alarm(0)
    lines = [line for line in result.stderr.splitlines() if line]
    assert all(line.startswith("rllib: ") and len(line) <= LONGEST_LINE for line in lines), result.stderr
    if isinstance(result.exception, StartedError):
        return
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert lines
    assert sorted(path.name for path in folder.iterdir()) == ["mutated.yaml"]
    assert not (folder.parent / "home").exists()
    assert not list(folder.parent.parent.glob("*evil*"))
