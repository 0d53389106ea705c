"""Names that can be imported from the package itself."""

import subprocess
import sys

import pytest

import rllib_reciprocator
import social_dilemmas
from rllib_reciprocator.algorithms.registry import BATCHED, algorithm_class


@pytest.mark.parametrize("name", rllib_reciprocator.__all__)
def test_public_names_can_be_imported_and_completed(name):
    assert getattr(rllib_reciprocator, name).__name__ == name
    assert name in dir(rllib_reciprocator)


@pytest.mark.parametrize("name", BATCHED)
def test_every_algorithm_and_its_configuration_are_public(name):
    assert getattr(rllib_reciprocator, name) is algorithm_class(name)
    config = getattr(rllib_reciprocator, f"{name}Config")()
    assert type(config) is type(algorithm_class(name).get_default_config())
    assert config.algo_class is algorithm_class(name)


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="has no attribute 'Reciprocater'"):
        rllib_reciprocator.Reciprocater  # noqa: B018


def test_importing_the_package_imports_neither_ray_nor_torch():
    code = "import sys, rllib_reciprocator; dir(rllib_reciprocator); print({'ray', 'torch'} & set(sys.modules))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "set()"


def test_objects_show_what_they_are():
    config = rllib_reciprocator.COALAConfig().environment("ipd_v0", env_config={"num_steps": 4})
    assert repr(config.players({"player_0": "coala", "player_1": "learner/pg"})) == (
        "COALAConfig(env='ipd_v0', env_config={'num_steps': 4},"
        " players={'player_0': 'coala', 'player_1': 'learner/pg'}, num_envs_per_env_runner=1024)"
    )
    assert repr(social_dilemmas.make("coins_v0", 8, num_steps=5)) == (
        "Coins(num_games=8, num_agents=2, num_steps=5, device='cpu')"
    )


def test_an_evaluator_shows_its_checkpoint(ipd):
    assert repr(rllib_reciprocator.open_evaluator(ipd, seed=3)) == f"BatchedEvaluator({str(ipd)!r}, seed=3)"
