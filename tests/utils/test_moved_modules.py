"""Tests that old names of modules still work."""

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from rllib_reciprocator.utils.moved_modules import MOVED, new_name

# Names without those in packages of version 0.1.0 that have become single modules.
IMPORTABLE = [name for name in MOVED if not name.startswith(("callbacks", "connectors", "rewards", "rollout"))]


def test_new_names_exist_and_have_not_moved_again():
    for new in MOVED.values():
        name = f"rllib_reciprocator.{new}"
        assert find_spec(name) is not None
        assert new_name(name) is None


@pytest.mark.parametrize("name", IMPORTABLE)
def test_old_name_imports_the_new_module(name):
    old = import_module(f"rllib_reciprocator.{name}")
    assert old is import_module(f"rllib_reciprocator.{MOVED[name]}")


def test_modules_of_moved_packages_are_found():
    assert new_name("rllib_reciprocator.batched.config") == "rllib_reciprocator.engine.config"
    assert new_name("rllib_reciprocator.influence.tabular") == (
        "rllib_reciprocator.intrinsic.reciprocity.estimators.tabular"
    )
    assert new_name("rllib_reciprocator.influence.learner") == "rllib_reciprocator.intrinsic.reciprocity.estimator_rule"
    assert new_name("rllib_reciprocator.models.settings") is None
    assert new_name("ray.batched") is None


def test_new_process_can_import_by_an_old_name_first():
    code = (
        "from rllib_reciprocator.batched.config import BatchedConfig as old\n"
        "from rllib_reciprocator.engine.config import BatchedConfig as new\n"
        "import rllib_reciprocator.batched.env_runner\n"
        "from rllib_reciprocator.intrinsic.reciprocity import ReciprocitySettings\n"
        "assert old is new and old.__module__ == 'rllib_reciprocator.engine.config'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_never_existed_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        import_module("rllib_reciprocator.batched.nothing")
