"""Tests that CONTRIBUTING.md and docs/architecture.md describe the repository as it is."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
CODE = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL))
PATHS = [code for code in CODE if "/" in code and " " not in code and not code.startswith("-")]


def layer_folders(page):
    """Returns the folders, and modules without suffix, in the table of layers of a page, from top to bottom."""
    return re.findall(r"^\| `((?:rllib_reciprocator|envs)/\w+)(?:/|\.py)`", page, re.MULTILINE)


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
    assert [folder.rpartition("/")[2] for folder in layer_folders(TEXT)] == expected


def test_every_folder_of_the_package_has_a_row():
    packages = [path.parent for path in (ROOT / "rllib_reciprocator").glob("*/__init__.py")]
    folders = {f"rllib_reciprocator/{package.name}" for package in packages if not package.is_symlink()}
    assert folders | {"rllib_reciprocator/registry", "envs/social_dilemmas"} == set(layer_folders(TEXT))


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
# A file and a name in it: `a/b.py` `Class.method`.
NAMED = sorted(set(re.findall(r"`((?:rllib_reciprocator|envs)/[\w/]+\.py)`\s`([\w.]+)`", ARCHITECTURE)))
METHODS = sorted(set(re.findall(r"`([A-Z]\w+\.\w+)`", ARCHITECTURE)))
# A line of a call tree: indentation, name, file, and remark.
TREE_LINE = re.compile(r"([│├└─ ]*)([\w.]+) +(\S+)(?: +.*)?")


@cache
def definitions(path):
    """Returns the names of all classes, functions and methods of a file."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            members = [member.name for member in node.body if isinstance(member, ast.FunctionDef)]
            names |= {node.name, *(f"{node.name}.{member}" for member in members)}
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
    return names


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_names_in_the_architecture_page_are_defined_in_their_files(path, name):
    assert name in definitions(ROOT / path)


@pytest.mark.parametrize("name", METHODS)
def test_methods_in_the_architecture_page_exist(name):
    assert any(name in definitions(path) for path in (ROOT / "rllib_reciprocator").rglob("*.py"))


def calls():
    """Returns the lines of all call trees as (name, file), each with the line that it is indented under, or None."""
    pairs = []
    for tree in re.findall(r"^```text\n(.*?)^```", ARCHITECTURE, re.DOTALL | re.MULTILINE):
        callers = []
        for line in tree.splitlines():
            indentation, name, file = TREE_LINE.fullmatch(line).groups()
            depth = len(indentation) // 4
            pairs.append(((name, file), callers[depth - 1] if depth else None))
            callers[depth:] = [(name, file)]
    return pairs


def names_used(path, name):
    """Returns the names that the body of a function or method refers to."""
    nodes = ast.parse(path.read_text()).body
    for part in name.split("."):
        (node,) = [node for node in nodes if getattr(node, "name", None) == part]
        nodes = node.body
    return {getattr(child, "attr", None) or getattr(child, "id", None) for node in nodes for child in ast.walk(node)}


@pytest.mark.parametrize(("called", "caller"), calls())
def test_call_trees_in_the_architecture_page_follow_the_code(called, caller):
    name, file = called
    if file != "RLlib":
        assert name in definitions(ROOT / file)
    # RLlib's functions have no file here; instances are called without the name of their method.
    if caller and caller[1] != "RLlib" and not name.endswith(".__call__"):
        assert name.rpartition(".")[2] in names_used(ROOT / caller[1], caller[0])


def test_the_architecture_page_lists_twenty_concepts():
    section = ARCHITECTURE.partition("## Concepts")[2].partition("\n## ")[0]
    assert [int(number) for number in re.findall(r"^(\d+)\. ", section, re.MULTILINE)] == list(range(1, 21))


def test_folders_in_the_architecture_page_are_those_of_the_contributing_page():
    assert layer_folders(ARCHITECTURE) == layer_folders(TEXT)
