"""Tests of the scripts and workflows that run the checks."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import yaml

from rllib_reciprocator.utils.ray_internals import PRIVATE_NAMES
from tests.conftest import pytest_terminal_summary

ROOT = Path(__file__).parents[1]
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}


def commands(workflow):
    """Returns the commands of all steps of a workflow."""
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


def test_workflows_run_targets_of_the_makefile():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name, workflow in WORKFLOWS.items():
        used_targets = set(re.findall(r"\bmake ([\w-]+)", "\n".join(commands(workflow))))
        assert used_targets, name
        assert used_targets <= targets, name


def test_documentation_states_what_was_checked_with_each_python_version():
    versions = WORKFLOWS["ci.yml"]["jobs"]["tests"]["strategy"]["matrix"]["python-version"]
    rows = re.findall(r"^\| (3\.\d+) \|", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(versions)


def test_paths_in_the_workflow_of_the_newest_ray_exist():
    paths = re.findall(r"(?:\.ci|tests)/[\w/]+\.py", "\n".join(commands(WORKFLOWS["nightly.yml"])))
    assert len(paths) == 2
    assert [path for path in paths if not (ROOT / path).is_file()] == []


def test_missing_private_names_of_ray_are_found():
    script = runpy.run_path(str(ROOT / ".ci" / "missing_ray_names.py"))
    used_names = set(script["used_names"]())
    assert {(module, name) for module, names in PRIVATE_NAMES.items() for name in names} < used_names
    assert ("ray.tune.registry", "_global_registry") in used_names
    assert script["has_name"]("ray.tune.registry", "_global_registry")
    assert not script["has_name"]("ray.tune.registry", "_global_regist")
    assert not script["has_name"]("ray.tune.no_module", "_global_registry")


def test_reasons_of_skipped_tests_are_written(tmp_path, monkeypatch):
    monkeypatch.setenv("SKIPPED_TESTS", str(tmp_path / "skipped"))
    report = SimpleNamespace(nodeid="tests/test_a.py::test_b", longrepr=("tests/test_a.py", 3, "Skipped: needs a GPU"))
    config = SimpleNamespace()
    pytest_terminal_summary(SimpleNamespace(stats={"skipped": [report]}, config=config))
    assert (tmp_path / "skipped").read_text() == "needs a GPU\ttests/test_a.py::test_b\n"
    config.workerinput = {}
    pytest_terminal_summary(SimpleNamespace(stats={"skipped": [report]}, config=config))
    assert len((tmp_path / "skipped").read_text().splitlines()) == 1
