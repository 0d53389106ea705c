"""Tests of every algorithm on the batched engine; algorithms that are added to the registry are included."""

import numpy as np
import pytest

from rllib_reciprocator.algorithms.registry import BATCHED, algorithm_class
from rllib_reciprocator.cli import tuned_examples
from rllib_reciprocator.engine import BatchedAlgorithm, BatchedConfig, BatchedLearner
from rllib_reciprocator.experiments.schema import read_file
from rllib_reciprocator.experiments.validation import build_config, check
from rllib_reciprocator.results.metrics import iterate_metrics
from tests.helpers.weights import assert_same_weights, weights

pytestmark = pytest.mark.parametrize("name", BATCHED)


def config(name, env="ipd_v0", seed=1, learners=0, fragment="auto", **training):
    default = algorithm_class(name).get_default_config()
    if default.completes_episodes() or default.samples_meta_episodes or name == "LOQA":
        fragment = "auto"  # these algorithms need whole episodes
    return (
        default.environment(env, env_config={"num_steps": 4})
        .training(num_epochs=2, **training)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .env_runners(num_envs_per_env_runner=32, rollout_fragment_length=fragment)
        .learners(num_learners=learners)
        .debugging(seed=seed)
    )


def test_uses_the_batched_engine(name):
    algorithm = algorithm_class(name)
    assert issubclass(algorithm, BatchedAlgorithm)
    assert algorithm.__name__ == name
    default = algorithm.get_default_config()
    assert isinstance(default, BatchedConfig)
    assert default.algo_class is algorithm
    assert issubclass(default.get_default_learner_class(), BatchedLearner)
    assert default.default_player in default.player_kinds()


@pytest.mark.parametrize("env", ["ipd_v0", "coins_v0"])
def test_updates_weights_and_reports_finite_metrics(build, name, env):
    algo = build(config(name, env=env))
    before = weights(algo)
    for _ in range(2):
        result = algo.train()
    after = weights(algo)
    changed_ids = {key.split("/")[0] for key in before if not np.array_equal(before[key], after[key])}
    assert {"player_0", "player_1"} <= changed_ids
    metrics = list(iterate_metrics(result))
    assert all(np.isfinite(value) for _, _, value in metrics)
    for agent in ("player_0", "player_1"):
        means = [value for metric, subject, value in metrics if (metric, subject) == ("return", agent)]
        per_step = float(result["env_runners"]["reward_per_step"][agent])
        assert per_step == pytest.approx(means[0] / 4, abs=0.2)


def test_seeded_runs_are_identical(build, name):
    first, second = (build(config(name, minibatch_size=40, shuffle_batch_per_epoch=True)) for _ in range(2))
    for _ in range(2):
        assert first.train()["env_runners"]["outcomes"] == second.train()["env_runners"]["outcomes"]
    assert_same_weights(first, second)
    other_seed = build(config(name, minibatch_size=40, shuffle_batch_per_epoch=True, seed=2))
    other_seed.train()
    assert any(not np.array_equal(value, weights(other_seed)[key]) for key, value in weights(first).items())


def test_restored_runs_continue_identically(build, tmp_path, name):
    """Restores in the middle of episodes, with a replay buffer, shuffled minibatches and a scheduled weight."""
    assert_restored_run_continues_identically(build, tmp_path, name, learners=0, fragment=3)


@pytest.mark.slow
def test_restored_runs_of_two_learners_continue_identically(build, tmp_path, name):
    """Restores the replay buffer of each learner. The fast tests include the case of Reciprocator."""
    assert_restored_run_continues_identically(build, tmp_path, name, learners=2, fragment="auto")


def assert_restored_run_continues_identically(build, tmp_path, name, learners, fragment):
    def build_run():
        a_config = config(name, "coins_v0", learners=learners, fragment=fragment, shuffle_batch_per_epoch=True)
        a_config.training(minibatch_size=40).players({"player_0": "reciprocator", "player_1": a_config.default_player})
        weight = {"start": 1.0, "end": 5.0, "per_iteration": 0.5}
        return build(a_config.intrinsic("reciprocity", weight=weight, buffer_iterations=3, estimator_minibatch_size=50))

    whole = build_run()
    for _ in range(2):
        whole.train()
    whole.save_to_path(tmp_path)
    expected = [whole.train() for _ in range(2)]
    resumed_algo = build_run()
    resumed_algo.restore_from_path(tmp_path)
    for result in expected:
        resumed_result = resumed_algo.train()
        assert resumed_result["training_iteration"] == result["training_iteration"]
        for key in ("outcomes", "agent_episode_returns_mean", "influence", "balance", "reward_per_step"):
            assert resumed_result["env_runners"].get(key) == result["env_runners"].get(key), key
        for key in ("loss", "reciprocal_weight"):
            assert resumed_result["learners"]["influence"][key] == result["learners"]["influence"][key], key
    assert_same_weights(whole, resumed_algo)


YAML = """
two-of-each:
  run: {run}
  env: ipd_v0
  stop: {{training_iteration: 1}}
  config:
    env_config: {{num_steps: 4}}
    players: {{player_0: {player}, player_1: {{pool: {{{player}: 0.5, scripted/random: 0.5}}}}}}
    meta: {{inner_episodes: 2, copies: 1}}
    seed: 1
    num_env_runners: 2
    num_learners: 2
    num_envs_per_env_runner: {environments}
    train_batch_size_per_learner: {rows}
    minibatch_size: {minibatch_size}
    num_epochs: 1
"""


def from_file(tmp_path, name, environments, minibatch_size=-3):
    """Returns the configuration of a file; ``minibatch_size`` is added to the number of rows of a learner."""
    default = algorithm_class(name).get_default_config()
    rows = environments * (8 if default.samples_meta_episodes else 4)
    path = tmp_path / "sizes.yaml"
    sizes = {"environments": environments, "rows": rows, "minibatch_size": rows + minibatch_size}
    path.write_text(YAML.format(run=name, player=default.default_player, **sizes))
    (experiment,) = read_file(path)
    return build_config(check(experiment, experiment.name), experiment.env, experiment.config)


@pytest.mark.parametrize("environments", [7, 8])
def test_batch_sizes_include_all_env_runners_and_learners(name, tmp_path, environments):
    """Uses a minibatch larger than one env runner's rollout.

    Two learners could not split the environments of a single env runner evenly.
    """
    a_config = from_file(tmp_path, name, environments)
    a_config.validate()
    evaluation = a_config.get_evaluation_config_object()
    evaluation.validate()
    assert evaluation.num_env_runners == 0
    assert a_config.algo_class.default_resource_request(a_config)
    with pytest.raises(ValueError, match=r"minibatch_size: \d+ is not between 1 and the \d+ rows of a learner"):
        from_file(tmp_path, name, environments, 1).validate()


@pytest.mark.processes
def test_two_runners_and_two_learners_train_from_a_file(name, tmp_path, build):
    algo = build(from_file(tmp_path, name, 7))
    before = weights(algo)
    result = algo.train()
    after = weights(algo)
    changed_ids = {key.split("/")[0] for key in before if not np.array_equal(before[key], after[key])}
    assert {"player_0", "player_1"} <= changed_ids
    assert all(np.isfinite(value) for _, _, value in iterate_metrics(result))


def test_co_players_may_be_online_learners(build, name):
    """Expects online learners to learn between inner episodes, and to be reset after the last one."""
    a_config = config(name)
    # Incentive functions are trained through the updates of other trained policies, of which there is none here.
    player = {"player": "lio", "gives": False} if name == "LIO" else a_config.default_player
    players = {"player_0": player, "player_1": "learner/pg"}
    algo = build(a_config.players(players).meta(inner_episodes=3, copies=8))
    module = algo.env_runner.module["player_1"].unwrapped()
    logits = []
    learn = module.learn
    module.learn = lambda *episode: (logits.append(module.learned()["parameters"]["logits"]), learn(*episode))
    for _ in range(4):
        result = algo.train()
    assert all(np.isfinite(value) for _, _, value in iterate_metrics(result))
    assert len(logits) >= 4
    is_initial = [not bool(initial_logits.any()) for initial_logits in logits]
    assert is_initial == [index % 3 == 0 for index in range(len(logits))]


def test_has_a_tuned_example_and_one_of_naive_learners(name):
    """Expects an example of the algorithm and one of naive learners in the same environment."""
    specs = [read_file(str(tuned_examples.path(example)))[0] for example in tuned_examples.names()]
    naive = ("ppo", "pg", "ac")
    is_naive = [all(player in naive for player in spec.config.get("players", {"": ""}).values()) for spec in specs]
    envs = {spec.env for spec, naive in zip(specs, is_naive, strict=True) if spec.run == name and not naive}
    assert envs & {spec.env for spec, naive in zip(specs, is_naive, strict=True) if naive}
