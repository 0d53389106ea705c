"""Classes and functions by path, and the settings that take them."""

import math

import pytest

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.engine.registries import intrinsic_reward
from rllib_reciprocator.utils.import_paths import import_attribute


def test_the_attribute_of_a_module_is_imported():
    assert import_attribute("math:pi") is math.pi


@pytest.mark.parametrize(
    ("path", "error"), [(":pi", ImportError), ("mth:pi", ImportError), ("math:pie", AttributeError)]
)
def test_missing_modules_and_attributes_raise(path, error):
    with pytest.raises(error):
        import_attribute(path)


def test_settings_refuse_a_path_without_a_module():
    with pytest.raises(ValueError, match=r"':A' cannot be imported \(Empty module name\)"):
        algorithm_class(":A")
    with pytest.raises(ValueError, match=r"intrinsic reward ':A': it cannot be imported \(Empty module name\)"):
        intrinsic_reward(":A")
    config = ReciprocatorConfig().environment("ipd_v0").players({"player_*": "module/:A"})
    with pytest.raises(ValueError, match=r"module/:A: cannot be imported \(Empty module name\)"):
        config.validate()
