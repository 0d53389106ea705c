"""Tests that CONTRIBUTING.md describes the repository as it is."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
CODE = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL))
PATHS = [code for code in CODE if "/" in code and " " not in code and not code.startswith("-")]


@pytest.mark.parametrize("path", sorted(set(PATHS)))
def test_paths_exist(path):
    """Checks the parent folder only where ``NAME`` stands for the name of a new file or folder."""
    file = ROOT / path
    assert (file.parent if "NAME" in path else file).exists()


def test_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    documented_targets = set(re.findall(r"^make ([\w-]+)", TEXT, re.MULTILINE))
    assert documented_targets
    assert documented_targets <= targets


def test_layers_are_those_of_the_import_contract():
    tomllib = pytest.importorskip("tomllib")  # part of Python since 3.11
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    expected = [name.strip().rpartition(".")[2] for layer in layers for name in layer.split("|")]
    rows = re.findall(r"^\| `(?:rllib_reciprocator|envs)/(\w+)/`", TEXT, re.MULTILINE)
    assert rows == expected


def test_every_folder_of_the_package_has_a_row():
    folders = {path.parent.name for path in (ROOT / "rllib_reciprocator").glob("*/__init__.py")}
    assert folders == set(re.findall(r"^\| `rllib_reciprocator/(\w+)/`", TEXT, re.MULTILINE))
