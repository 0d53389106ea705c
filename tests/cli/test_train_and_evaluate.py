"""Trains and evaluates with the command `rllib`."""

import json

import pytest

from rllib_reciprocator.utils.checkpoints import TRUST
from rllib_reciprocator.utils.checkpoints.configs import describe
from tests.helpers.commands import (
    IPD,
    SMALL,
    invoke,
    results,
    run,
    standard_json,
    train_arguments,
)


def test_one_episode_is_evaluated_without_an_interval(ipd, tmp_path):
    out = tmp_path / "out.json"
    evaluation = invoke("evaluate", str(ipd), "--episodes", "1", "--seed", "1", "--out", str(out))
    assert evaluation.exit_code == 0, evaluation.output
    assert "nan" not in evaluation.stdout
    statistics = standard_json(out.read_text())["players"]["player_0"]["return"]
    assert statistics["ci95"] is None
    assert isinstance(statistics["mean"], float)


@pytest.mark.processes
def test_train_from_options_then_evaluate(tmp_path):
    training = run(*train_arguments(tmp_path, SMALL, iterations=3))
    assert training.returncode == 0, training.stderr
    assert training.stdout.startswith("ray          started on this machine with ")
    folder = tmp_path / "reciprocator-ipd_v0"
    assert (folder / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    (trial,) = folder.glob("Reciprocator_*/")
    assert (trial / "progress.csv").is_file()
    assert list(trial.glob("events.out.tfevents*"))
    assert set(results(folder)) == {1, 2, 3}
    for word in ("player_0", "reciprocator", "cooperation rate", "checkpoint_000000", "tensorboard", "iteration 3"):
        assert word in training.stdout + training.stderr, word
    assert "Traceback" not in training.stderr

    (checkpoint,) = trial.glob("checkpoint_*")
    out = tmp_path / "out.json"
    player = "player_1=scripted/always_defect"
    evaluation = invoke(
        "evaluate", str(checkpoint), "--episodes", "50", "--out", str(out), "--players", player, "--seed", "1"
    )
    assert evaluation.exit_code == 0, evaluation.output
    assert json.loads(out.read_text())["players"]["player_1"]["cooperation_rate"]["mean"] == 0.0


@pytest.mark.processes
def test_restored_run_saves_checkpoints(ray_cluster, tmp_path, monkeypatch):
    first = invoke(*train_arguments(tmp_path, SMALL, iterations=2))
    assert first.exit_code == 0, first.stderr
    (checkpoint,) = tmp_path.glob("*/*/checkpoint_*")
    options = ("--restore", str(checkpoint), "--experiment-name", "on", "--storage-path", str(tmp_path))
    training = invoke(*IPD, "--config", json.dumps(SMALL), "--stop", '{"training_iteration": 3}', *options)
    assert training.exit_code == 0, training.stderr
    monkeypatch.setenv(TRUST, "1")  # reads the class that Ray derives from the algorithm, by value
    assert describe(checkpoint).algorithm == "Reciprocator"
    monkeypatch.delenv(TRUST)
    (result_file,) = (tmp_path / "on").glob("*/result.json")
    assert [json.loads(line)["training_iteration"] for line in result_file.read_text().splitlines()] == [3]
    evaluation = invoke("evaluate", str(tmp_path / "on"), "--episodes", "5")
    assert evaluation.exit_code == 0, evaluation.output


@pytest.mark.processes
def test_grid_search_and_rllib_algorithm(ray_cluster, tmp_path):
    file = tmp_path / "two.yaml"
    file.write_text(
        """
two-variants:
  run: Reciprocator
  env: ipd_v0
  stop: {training_iteration: 2}
  checkpoint_at_end: false
  config: {num_envs_per_env_runner: 16, lr: {grid_search: [0.001, 0.01]}}
cartpole:
  run: PPO
  env: CartPole-v1
  stop: {training_iteration: 2}
  config: {num_env_runners: 0, train_batch_size_per_learner: 256, minibatch_size: 64, num_epochs: 1}
"""
    )
    training = invoke("train", "file", str(file), "--storage-path", str(tmp_path / "out"))
    assert training.exit_code == 0, training.stderr
    assert len(list((tmp_path / "out" / "two-variants").glob("*/result.json"))) == 2
    assert not list((tmp_path / "out" / "two-variants").glob("*/checkpoint_*"))
    (checkpoint,) = (tmp_path / "out" / "cartpole").glob("*/checkpoint_*")
    assert "cartpole: PPO on CartPole-v1, 2 iterations" in training.stdout
    for file in (tmp_path / "out").glob("*/*/result.json"):
        assert [standard_json(line)["training_iteration"] for line in file.read_text().splitlines()] == [1, 2]
        assert standard_json((file.parent / "params.json").read_text())["env"] in ("ipd_v0", "CartPole-v1")

    evaluation = invoke("evaluate", str(checkpoint), "--episodes", "3")
    assert evaluation.exit_code == 0, evaluation.stderr
    assert "CartPole-v1: 3 episodes" in evaluation.stdout


@pytest.mark.processes
def test_sweep_and_rllib_algorithm_with_players(ray_cluster, tmp_path):
    """Runs every sampled setting with every seed and prints a summary; trains a Reciprocator with RLlib's PPO."""
    file = tmp_path / "sweep.yaml"
    file.write_text(
        """
sweep:
  run: Reciprocator
  env: ipd_v0
  stop: {training_iteration: 2}
  seeds: 2
  num_samples: 2
  metric: env_runners/episode_return_mean
  mode: max
  scheduler: {type: asha, grace_period: 1, max_t: 2}
  checkpoint_at_end: false
  config: {num_envs_per_env_runner: 16, lr: {tune: loguniform, args: [1e-3, 1e-2]}}
stock:
  run: PPO
  env: ipd_v0
  stop: {training_iteration: 1}
  config:
    players: {player_0: reciprocator, player_1: scripted/random}
    reciprocity: {reward: petty, weight: 5.0}
    num_env_runners: 0
    rollout_fragment_length: 32
    train_batch_size_per_learner: 64
    num_envs_per_env_runner: 2
    minibatch_size: 32
    num_epochs: 1
"""
    )
    training = invoke("train", "file", str(file), "--storage-path", str(tmp_path / "out"))
    assert training.exit_code == 0, training.stderr
    configs = [json.loads(path.read_text()) for path in (tmp_path / "out" / "sweep").glob("*/params.json")]
    assert sorted(config["seed"] for config in configs) == [1, 1, 2, 2]
    rates = [config["lr"] for config in configs]
    assert all(rates.count(rate) == 2 for rate in rates)
    assert "sweep: 4 trials of 2 settings" in training.stdout
    assert "collective return" in training.stdout
    assert "scripted/random" in training.stdout
    assert "cooperation rate" in training.stdout


def test_naive_learners_and_scripted_players_with_rllib_ppo(ray_cluster, tmp_path):
    config = (
        '{"players": {"player_0": "ppo", "player_1": "scripted/random"}, "num_env_runners": 0, "minibatch_size": 32,'
        ' "rollout_fragment_length": 32, "train_batch_size_per_learner": 64, "num_epochs": 1}'
    )
    options = ("--stop", '{"training_iteration": 1}', "--storage-path", str(tmp_path))
    training = invoke("train", "--algo", "PPO", "--env", "coins_v0", "--config", config, *options)
    assert training.exit_code == 0, training.stderr
    assert "own coin share" in training.stdout
    (checkpoint,) = tmp_path.glob("*/*/checkpoint_*")
    evaluation = invoke("evaluate", str(checkpoint), "--episodes", "3")
    assert evaluation.exit_code == 0, evaluation.stderr
    assert "coins_v0: 3 episodes" in evaluation.stdout
    assert "player_1" in evaluation.stdout
