import os
import warnings
from pathlib import Path

import pytest

from tests.helpers.axelrod_sources import cache_sources

# Subprocesses that tests start must start their own Ray instance, not connect to a running cluster.
os.environ.pop("RAY_ADDRESS", None)
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
cache_sources()


def pytest_terminal_summary(terminalreporter):
    """Appends the reason and the name of each skipped test to the file that ``SKIPPED_TESTS`` names, if it is set."""
    path = os.environ.get("SKIPPED_TESTS")
    if path and not hasattr(terminalreporter.config, "workerinput"):  # pytest-xdist's main process has all reports
        with Path(path).open("a") as file:
            for report in terminalreporter.stats.get("skipped", []):
                reason = report.longrepr[2].removeprefix("Skipped: ")
                file.write(f"{reason}\t{report.nodeid}\n")


@pytest.fixture(scope="session")
def ray_cluster():
    """Starts one local Ray instance for all tests of a worker process."""
    import ray
    from ray.tune.utils.util import UtilMonitor

    warnings.simplefilter("ignore")
    # An algorithm that is stopped would wait up to 0.7 s for the thread that reads the load of the machine.
    UtilMonitor.join = lambda thread: None
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def build(ray_cluster):
    """Returns a function that builds algorithms, which are stopped after the test."""
    algorithms = []

    def _build(a_config):
        algorithms.append(a_config.build_algo())
        return algorithms[-1]

    yield _build
    for algo in algorithms:
        algo.stop()


@pytest.fixture
def no_ray(monkeypatch):
    """Makes the test fail if Ray or an experiment is started."""
    import ray
    from ray import tune

    def fail(*args, **kwargs):
        raise AssertionError("something was started")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(tune.Tuner, "fit", fail)


def trained(algo, folder):
    algo.train()
    path = algo.save_to_path(folder)
    algo.stop()
    return Path(path)


@pytest.fixture(scope="session")
def ipd(ray_cluster, tmp_path_factory):
    """Returns the checkpoint of a Reciprocator with observed balance against tit-for-tat in the prisoner's dilemma."""
    from rllib_reciprocator import ReciprocatorConfig

    config = (
        ReciprocatorConfig()
        .environment("ipd_v0", env_config={"num_steps": 10})
        .players({"player_0": "reciprocator", "player_1": "scripted/tit_for_tat"})
        .reciprocity(observe_balance=True, balance_decay=0.9)
        .env_runners(num_envs_per_env_runner=16)
        .debugging(seed=1)
    )
    return trained(config.build_algo(), tmp_path_factory.mktemp("ipd") / "checkpoint")


@pytest.fixture(scope="session")
def coins(ray_cluster, tmp_path_factory):
    """Returns the checkpoint of two Reciprocators in Coins, with a learned estimator."""
    from rllib_reciprocator import ReciprocatorConfig

    config = (
        ReciprocatorConfig()
        .environment("coins_v0", env_config={"num_steps": 8})
        .reciprocity(balance_decay=0.9)
        .env_runners(num_envs_per_env_runner=8)
        .debugging(seed=1)
    )
    return trained(config.build_algo(), tmp_path_factory.mktemp("coins") / "checkpoint")


@pytest.fixture(scope="session")
def stock(ray_cluster, tmp_path_factory):
    """Returns the checkpoint of PPO with RLlib's env runners in the prisoner's dilemma.

    One agent reciprocates and observes its balance, the other one does not.
    """
    from rllib_reciprocator.algorithms.registry import algorithm_class

    config = algorithm_class("PPO").get_default_config().environment("ipd_v0", env_config={"num_steps": 6})
    config.env_runners(num_env_runners=0, rollout_fragment_length=6).rl_module(model_config={"fcnet_hiddens": [8]})
    config.training(train_batch_size_per_learner=24, minibatch_size=12, num_epochs=1).debugging(seed=1)
    players = {"player_0": "reciprocator", "player_1": "ppo"}
    config.update_from_dict({"players": players, "reciprocity": {"observe_balance": True, "balance_decay": 0.9}})
    return trained(config.build_algo(), tmp_path_factory.mktemp("stock") / "checkpoint")
