"""Tests that the code blocks of the README and the documentation run."""

import glob
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from mkdocs.__main__ import cli as mkdocs
from ray.tune import register_env

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.experiments.schema import Experiment, parse, typed
from rllib_reciprocator.experiments.settings_page import settings_page
from rllib_reciprocator.experiments.validation import check
from rllib_reciprocator.intrinsic.reciprocity import ReciprocitySettings
from rllib_reciprocator.models.settings import ModelSettings
from social_dilemmas import registry
from tests.helpers.commands import invoke
from tests.helpers.multi_agent_envs import TwoAgents

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
# Commands that other tests run, or that need a network or a cluster.
ELSEWHERE = ("make", "source", "pip", "ray", "tensorboard")
SHORT = '{"training_iteration": 2}'


def blocks(page, language):
    """Returns the blocks without a title. Blocks with a title are files."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def write_files(page):
    """Writes the blocks that are files to the current folder."""
    for name, text in re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', PAGES[page], re.DOTALL | re.MULTILINE):
        Path(name).write_text(text)


def pages_with_blocks(language):
    return [page for page in PAGES if blocks(page, language)]


@pytest.fixture(scope="module")
def checkpoint(ray_cluster, tmp_path_factory):
    config = ReciprocatorConfig().environment("ipd_v0").env_runners(num_envs_per_env_runner=16).debugging(seed=1)
    algo = config.build_algo()
    algo.train()
    path = algo.save_to_path(tmp_path_factory.mktemp("run") / "checkpoint")
    algo.stop()
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Changes to a new folder that contains only the tuned examples, as a clone does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "tuned_examples").symlink_to(ROOT / "tuned_examples")
    return tmp_path


# PPO has two remote env runners by default.
WITH_REMOTE_ENV_RUNNERS = ("rllib.md",)
PYTHON_PAGES = [
    pytest.param(page, marks=pytest.mark.processes) if page in WITH_REMOTE_ENV_RUNNERS else page
    for page in pages_with_blocks("python")
]


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_python(page, folder, checkpoint):
    """Runs the blocks of a page one after the other, as in a notebook."""
    write_files(page)
    register_env("my_env", TwoAgents)
    names = {"__name__": "page"}
    for code in blocks(page, "python"):
        exec(compile(code.replace('"CHECKPOINT"', repr(str(checkpoint))), page, "exec"), names)


def commands(page):
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].split("   #")[0].strip() for line in lines if line.strip()]


def run(line, page):
    if "title=" in PAGES[page]:
        # Ray's processes import modules from the folder in which the command was started.
        command = [str(Path(sys.executable).with_name("rllib")), *shlex.split(line)[1:]]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, (line, result.stderr)
        return
    arguments = [match for part in shlex.split(line)[1:] for match in sorted(glob.glob(part)) or [part]]
    result = invoke(*arguments)
    assert result.exit_code == 0, (line, result.output, result.exception)


def shorten(line):
    """Limits a command to two iterations, four games per match or four episodes."""
    if line.startswith(("rllib train", "rllib example run")):
        line = re.sub(r"--stop '[^']*'", "", line) + f" --stop '{SHORT}'"
    if line.startswith("rllib tournament"):
        line = re.sub(r"--games \d+", "", line) + " --games 4"
    return re.sub(r"--episodes 10000", "--episodes 4", line)


@pytest.mark.processes
@pytest.mark.parametrize("page", pages_with_blocks("bash"))
def test_commands(page, folder, checkpoint):
    for number, text in enumerate(blocks(page, "yaml")):
        entries = parse(text, page)
        if any(isinstance(entry, dict) and entry.get("run") == "Reciprocator" for entry in entries.values()):
            for name in ("mine.yaml", "my.yaml") if number == 0 else ():
                Path(name).write_text(text.replace("checkpoint/PATH", "scripted/random"))
    write_files(page)
    result_folders = () if "example run" in "".join(commands(page)) else ("results/reciprocator-ipd", "results/ppo-ipd")
    for run_folder in ("RUN", "OTHER_RUN", *result_folders):
        trial = folder / run_folder / "Reciprocator_0"
        shutil.copytree(checkpoint, trial / "checkpoint_000000")
        (trial / "params.json").write_text("{}")
        (trial / "result.json").write_text('{"training_iteration": 1, "env_runners": {"episode_return_mean": 1.0}}\n')
    for line in commands(page):
        if line.split()[0] in ELSEWHERE:
            continue
        assert line.startswith("rllib "), line
        line = shorten(line.replace("CHECKPOINT", str(checkpoint)))
        if "axelrod" in line:
            pytest.importorskip("axelrod")
        if "--resume" in line:
            run(line.replace("--resume", ""), page)
        run(line, page)


@pytest.mark.parametrize("page", pages_with_blocks("yaml"))
def test_experiments_are_valid(page):
    names = {
        "module/my_package.my_module:MyModule": "module/tests.helpers.multi_agent_envs:TinyModule",
        "checkpoint/PATH": "scripted/random",
    }
    for text in blocks(page, "yaml"):
        for name, fake in names.items():
            text = text.replace(name, fake)
        for name, entry in parse(text, page).items():
            if isinstance(entry, dict) and "run" in entry:
                check(typed(name, entry, page), page)


@pytest.mark.parametrize("run", ["Reciprocator", "PPO"])
def test_documented_metrics_can_be_stopped_on(run):
    """Validates the names in the algorithm's column of the table as stopping criteria."""
    config = {"players": {"*": "reciprocator"}, "num_env_runners": 0} if run == "PPO" else {}
    rows = [line.split("|")[2:4] for line in PAGES["metrics.md"].splitlines() if re.match(r"\| .* \| .*`\w+/", line)]
    assert len(rows) > 10
    for batched_names, rllib_names in rows:
        names = batched_names if run == "Reciprocator" or "the same" in rllib_names else rllib_names
        for name in re.findall(r"`((?:env_runners|learners)/[^`]*)`", names):
            name = name.replace("AGENT", "player_0").replace("MODULE", "player_0")
            name = name.replace("J_on_I", "player_0_on_player_1").replace("I_towards_J", "player_0_towards_player_1")
            name = name.replace("I_to_J", "player_0_to_player_1").replace("ACTION", "cooperate")
            learner = "LIO" if name.startswith("learners/incentives") else run
            if "inner_episodes" in name:
                learner, name = "COALA", name.replace("/K", "/0")
            elif "fitness" in name:
                learner = "Shaper"
            entry = {"run": learner, "env": "ipd_v0", "stop": {name: 1.0}, "config": config}
            check(typed("x", entry, "page"), "page")


def test_files_linked_from_pages_exist():
    for page, text in PAGES.items():
        for path in re.findall(r"\]\(((?:docs|images)/[^)#]+)", text):
            assert (ROOT / ("" if page == "README.md" else "docs") / path).is_file(), (page, path)
        for path in re.findall(r"tuned_examples/\w+\.yaml", text):
            assert (ROOT / path).is_file(), (page, path)


def test_members_listed_on_the_api_page_exist():
    entries = re.findall(r"^::: (\S+)\n    options: {members: \[([^]]*)]", PAGES["api.md"], re.MULTILINE)
    assert len(entries) > 10
    for path, members in entries:
        try:
            target = importlib.import_module(path)
        except ModuleNotFoundError:
            module, _, name = path.rpartition(".")
            target = getattr(importlib.import_module(module), name)
        missing = [member for member in members.split(", ") if not hasattr(target, member)]
        assert not missing, (path, missing)


def test_no_page_installs_the_package_from_an_index():
    """Checks the pages and the headers of the examples, since the package is not in an index."""
    examples = {path.name: path.read_text() for path in (ROOT / "tuned_examples").glob("*.yaml")}
    for name, text in {**PAGES, **examples}.items():
        for line in text.splitlines():
            if "pip" in line and "import" not in line:
                assert not re.search(r"(?<![\w/.-])rllib_reciprocator\b", line), (name, line)


def test_settings_page_describes_all_settings():
    page = settings_page()
    for model in (ReciprocitySettings, Experiment):
        for name in model.model_fields:
            if name != "name":
                assert re.search(rf"^\| `{name}` \| `[^|]*` \| \S", page, re.MULTILINE), name
    assert all(f"`{name}`" in page for name in ModelSettings.model_fields)
    assert re.search(r"^\| `grid_size` \| `3` \| \S", page, re.MULTILINE)


def test_site_builds_and_loads_nothing_from_the_network(tmp_path, monkeypatch):
    """Builds with ``--strict``, which fails on broken links; a hook fails on pages that load external resources."""
    monkeypatch.chdir(ROOT)
    # Other tests register games of their own.
    games = {name: game for name, game in registry._GAMES.items() if game.entry_point.startswith("social_dilemmas.")}
    monkeypatch.setattr(registry, "_GAMES", games)
    result = CliRunner().invoke(mkdocs, ["build", "--strict", "--site-dir", str(tmp_path / "site")])
    assert result.exit_code == 0, result.output
    settings = (tmp_path / "site" / "settings.html").read_text()
    assert "balance_decay" in settings
    method = (tmp_path / "site" / "method.html").read_text()
    assert "<math" in method
    assert "arithmatex" not in method
    assert "reciprocator_coins_paper" in (tmp_path / "site" / "results.html").read_text()
