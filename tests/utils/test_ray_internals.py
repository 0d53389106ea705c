import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
import ray

from rllib_reciprocator.utils.ray_internals import PRIVATE_NAMES

PACKAGE = Path(__file__).parents[2] / "rllib_reciprocator"


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in PRIVATE_NAMES.items() for name in names]
)
def test_ray_still_has_what_it_does_not_promise(module, name):
    assert re.search(rf"\b{name}\b", inspect.getsource(import_module(module))), f"{module} of Ray {ray.__version__}"


def test_private_modules_and_names_of_ray_are_imported_in_one_module():
    found = []
    for file in PACKAGE.rglob("*.py"):
        if file.name == "ray_internals.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ray":
                parts = [*node.module.split("."), *(each.name for each in node.names)]
                found += [(file.name, part) for part in parts if part.startswith("_")]
    assert not found


def test_private_attributes_of_rays_objects_are_listed():
    """Of objects that are not ours: what follows ``config.``, ``group.`` and the like."""
    listed = {name for names in PRIVATE_NAMES.values() for name in names}
    pattern = re.compile(r"\b(?:config|runner|group|controller|tuner|learner|episode)\.(_[a-z]\w*)")
    for file in PACKAGE.rglob("*.py"):
        ours = set(re.findall(r"(?:def |self\.)(_[a-z]\w*)", file.read_text()))
        used = set(pattern.findall(file.read_text()))
        assert used - ours - listed == set(), file


def test_the_version_that_was_tried_is_the_one_that_is_asked_for():
    setup = (PACKAGE.parent / "setup.cfg").read_text()
    least, below = re.search(r"ray\[rllib,tune\] >= (\S+), < (\S+)", setup).groups()
    version = tuple(map(int, ray.__version__.split(".")[:2]))
    assert tuple(map(int, least.split("."))) <= version < tuple(map(int, below.split(".")))
