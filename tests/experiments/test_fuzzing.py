"""Shipped files with something wrong in them: each is valid, or one line and exit code 2, with nothing started."""

import copy
import os
import signal
from pathlib import Path

import hypothesis
import pytest
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rllib_reciprocator.cli.main import app
from rllib_reciprocator.experiments import running

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
    "!!set {a}", "!!binary x", "[" * 3000, "{a: " * 300, "9" * 5000, "\t", "---\n", "? [a]\n", "*nobody", "\x07",
    "\ufeff", "'", '"', "}", "%TAG", "!!int ''", "<<: {lr: 1}", "lr: 1\n    lr: 2", "!!omap [a: 1]", "@", "`", "|", ">",
    ": :", "- - -", "0x", "1e999", ".nan",
)  # fmt: skip


class StartedError(Exception):
    """Everything was checked, and Ray would be started now."""


def paths(tree, at=()):
    """All places in a tree."""
    if at:
        yield at
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from paths(value, (*at, key))


@st.composite
def mutated_trees(draw):
    """A file with values replaced, keys renamed, added or left out."""
    tree = copy.deepcopy(yaml.safe_load(draw(st.sampled_from(FILES)).read_text()))
    for _ in range(draw(st.integers(1, 3))):
        places = list(paths(tree))
        if not places:
            break
        *above, last = draw(st.sampled_from(places))
        holder = tree
        for key in above:
            holder = holder[key]
        what = draw(st.sampled_from(["replace", "replace", "replace", "rename", "add", "delete"]))
        if what == "delete":
            del holder[last]
        elif what == "replace" or not isinstance(holder, dict):
            holder[last] = copy.deepcopy(draw(VALUES))
        elif what == "rename":
            holder[draw(st.sampled_from(NAMES))] = holder.pop(last)
        else:
            holder[draw(st.sampled_from(NAMES))] = copy.deepcopy(draw(VALUES))
    return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)


@st.composite
def mutated_texts(draw):
    """A file's text with something put in, taken out or there twice."""
    text = draw(st.sampled_from(FILES)).read_text()
    for _ in range(draw(st.integers(1, 2))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 30)))
        what = draw(st.sampled_from(["insert", "delete", "repeat", "value", "text"]))
        if what == "insert":
            text = text[:start] + draw(st.sampled_from(SNIPPETS)) + text[start:]
        elif what == "delete":
            text = text[:start] + text[end:]
        elif what == "repeat":
            text = text[:end] + text[start:]
        elif what == "text":
            text = text[:start] + draw(st.text(max_size=5)) + text[end:]
        else:
            colon = text.find(": ", start)
            line = text.find("\n", colon)
            if colon >= 0:
                text = text[: colon + 2] + draw(st.sampled_from(SNIPPETS)) + text[line:]
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder to run in, with a home of its own, in which nothing starts."""
    root = tmp_path_factory.mktemp("fuzzing")
    here = root / "here"
    here.mkdir()
    patch = pytest.MonkeyPatch()
    patch.chdir(here)
    patch.setenv("HOME", str(root / "home"))

    def start(*args, **kwargs):
        raise StartedError

    patch.setattr(running, "ray_running", start)
    patch.setattr(
        running, "check_storage", lambda experiment: running.FileSystem.from_uri(running.storage_root(experiment))
    )
    yield here
    patch.undo()


def too_long(number, frame):
    raise TimeoutError(f"took more than {SECONDS} s")


@settings(max_examples=CASES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@hypothesis.given(text=st.one_of(mutated_trees(), mutated_texts()))
def test_mutated_files_are_valid_or_one_line(folder, text):
    file = folder / "mutated.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        result = CliRunner().invoke(app, ["train", "file", "mutated.yaml"])
    finally:
        signal.alarm(0)
    lines = [line for line in result.stderr.splitlines() if line]
    assert all(line.startswith("rllib: ") and len(line) <= LONGEST_LINE for line in lines), result.stderr
    if isinstance(result.exception, StartedError):
        return
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert lines
    assert sorted(each.name for each in folder.iterdir()) == ["mutated.yaml"]
    assert not (folder.parent / "home").exists()
    assert not list(folder.parent.parent.glob("*evil*"))
