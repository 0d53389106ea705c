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
def test_private_names_exist_in_ray(module, name):
    assert re.search(rf"\b{name}\b", inspect.getsource(import_module(module))), f"{module} of Ray {ray.__version__}"


def test_private_modules_and_names_of_ray_are_imported_in_one_module():
    private_imports = []
    for file in PACKAGE.rglob("*.py"):
        if file.name == "ray_internals.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ray":
                parts = [*node.module.split("."), *(alias.name for alias in node.names)]
                private_imports += [(file.name, part) for part in parts if part.startswith("_")]
    assert not private_imports


def test_private_attributes_of_rays_objects_are_listed():
    """Checks private attributes of Ray's objects, which follow ``config.``, ``group.`` and similar names."""
    known_names = {name for names in PRIVATE_NAMES.values() for name in names}
    pattern = re.compile(r"\b(?:config|runner|group|controller|tuner|learner|episode)\.(_[a-z]\w*)")
    for file in PACKAGE.rglob("*.py"):
        package_names = set(re.findall(r"(?:def |self\.)(_[a-z]\w*)", file.read_text()))
        attribute_names = set(pattern.findall(file.read_text()))
        assert attribute_names - package_names - known_names == set(), file


def test_installed_ray_version_is_in_the_required_range():
    setup = (PACKAGE.parent / "setup.cfg").read_text()
    minimum, limit = re.search(r"ray\[rllib,tune\] >= (\S+), < (\S+)", setup).groups()
    version = tuple(map(int, ray.__version__.split(".")[:2]))
    assert tuple(map(int, minimum.split("."))) <= version < tuple(map(int, limit.split(".")))
