import pytest

from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.experiments.validation import build_config


@pytest.fixture(scope="session")
def checkpoint(ray_cluster, tmp_path_factory):
    """Returns the checkpoint of an untrained Reciprocator in the prisoner's dilemma."""
    algo = build_config(algorithm_class("Reciprocator"), "ipd_v0", {"num_envs_per_env_runner": 4}).build_algo()
    folder = tmp_path_factory.mktemp("checkpoint") / "good"
    algo.save_to_path(folder)
    algo.stop()
    return folder
