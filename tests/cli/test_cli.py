import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rllib_reciprocator.cli.main import app

RLLIB = str(Path(sys.executable).with_name("rllib"))
IPD = ("train", "--algo", "Reciprocator", "--env", "ipd_v0")
FIGURES = ("outcomes", "agent_episode_returns_mean", "influence", "balance")
SMALL = {"num_envs_per_env_runner": 16, "num_epochs": 2, "seed": 3}


def invoke(*arguments):
    return CliRunner().invoke(app, list(arguments))


def run(*arguments):
    """Runs a command in a separate process, which starts and shuts down Ray."""
    return subprocess.run([RLLIB, *arguments], capture_output=True, text=True, timeout=300, check=False)


def train_arguments(storage, config, iterations):
    """Returns the arguments of a training run in the IPD that is configured by options."""
    stop = json.dumps({"training_iteration": iterations})
    return (*IPD, "--config", json.dumps(config), "--stop", stop, "--storage-path", str(storage))


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


def one_line(result, complaint):
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("rllib: ")
    assert complaint in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["train"], "give --algo NAME and --env ID"),
        (["train", "file", "none.yaml"], "none.yaml: no such file"),
        (["train", "--algo", "Reciprocator", "--env", "ipd_v7"], "did you mean 'ipd_v0'"),
        ([*IPD, "--config", "{lr: x}"], "config.lr: 'x'"),
        ([*IPD, "--config", "[1]"], "--config: must be a mapping"),
        (
            [*IPD, "--stop", "{iterations: 1}"],
            "did you mean 'training_iteration'",
        ),
        ([*IPD, "--stop", "{training_iteration: 1}", "--restore", "none"], "none: no such checkpoint"),
        (
            [*IPD, "--stop", "{training_iteration: 1}", "--resume", "--storage-path", "/tmp/none"],
            "no experiment to continue",
        ),
        (["train", "--algo", "Nobody", "--env", "x"], "run: 'Nobody' is not known"),
        (
            [*IPD, "--stop", "{training_iteration: 1}", "--ray-address", "127.0.0.1:9"],
            "--ray-address 127.0.0.1:9: no answer from there",
        ),
        (
            [*IPD, "--stop", "{training_iteration: 1}", "--ray-address", "cluster"],
            "--ray-address cluster: is not an address; use HOST:PORT",
        ),
        (
            ["train", "--seed", "5", "--stop", "{training_iteration: 1}", "file", "F.yaml"],
            "--stop, --seed: options go after `rllib train file`, as in `rllib train file F.yaml --stop ..`",
        ),
        (["train", "--no-checkpoint-at-end", "file", "F.yaml"], "--checkpoint-at-end: options go after"),
        (
            ["train", "--algo", "PPO", "--config", "{lr: 1}", "file", "F.yaml"],
            "--algo, --config cannot be used with it",
        ),
        (["evaluate", "none"], "none: no such checkpoint"),
        (["evaluate", ".", "--players", "player_1"], "give AGENT=PLAYER"),
        (["example", "get", "reciprocator_ipq"], "did you mean 'reciprocator_ipd'"),
        (["example", "run", "nothing_like_it"], "example 'nothing_like_it' is not known"),
    ],
)
def test_invalid_input_prints_one_line_and_exits_with_code_2(no_ray, arguments, complaint):
    one_line(invoke(*arguments), complaint)


@pytest.mark.parametrize("command", [[*IPD, "--stop", "{training_iteration: 1}"], ["tournament"]])
def test_ray_address_environment_variable_is_used(no_ray, monkeypatch, tmp_path, command):
    """The command fails if nothing answers at the address, and does not start a local Ray."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    if command == ["tournament"]:
        players = ["scripted/always_defect", "scripted/tit_for_tat"]
        command = [*command, *players, "--env", "ipd_v0", "--num-workers", "1", "--out", str(tmp_path / "out")]
    one_line(invoke(*command), "RAY_ADDRESS 127.0.0.1:9: no answer from there")


def test_service_other_than_ray_is_refused(no_ray):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        options = ("--stop", "{training_iteration: 1}", "--ray-address", address)
        one_line(invoke(*IPD, *options), f"--ray-address {address}: the service there is not Ray")
        thread.join()


@pytest.mark.parametrize(("environment", "option"), [(None, []), ("", []), ("127.0.0.1:9", ["--ray-address", "local"])])
def test_local_ray_is_started_without_an_address(monkeypatch, environment, option):
    """Without an explicit address, Ray would join a running local cluster or the cluster of RAY_ADDRESS."""
    import ray

    init_calls = []

    def init(**settings):
        init_calls.append(settings)
        raise RuntimeError("no Ray in this test")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    if environment is not None:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    result = invoke(*IPD, "--stop", "{training_iteration: 1}", *option)
    assert str(result.exception) == "no Ray in this test"
    assert [arguments["address"] for arguments in init_calls] == ["local"]


def test_process_prints_only_the_error():
    process = run("train", "--algo", "Reciprocator", "--env", "ipd_v0", "--config", "{lr: x}")
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.splitlines() == [
        "rllib: command line: reciprocator-ipd_v0.config.lr: 'x': input should be a valid number"
    ]


@pytest.mark.parametrize(
    "arguments",
    [["train", "--nonsense"], ["train", "--num-samples", "0"], ["nonsense"], ["evaluate", "x", "--episodes", "many"]],
)
def test_unknown_options_exit_with_code_2(arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_examples_are_listed_and_shown():
    names = invoke("example", "list").output
    assert "reciprocator_ipd " in names
    text = invoke("example", "get", "reciprocator_ipd").output
    assert text == Path("tuned_examples/reciprocator_ipd.yaml").read_text()


def test_help_imports_neither_ray_nor_torch():
    code = "import sys, rllib_reciprocator.cli.main; sys.exit('ray' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def results(folder):
    (file,) = folder.glob("*/result.json")
    by_iteration = {}
    for line in file.read_text().splitlines():
        result = json.loads(line)
        by_iteration[result["training_iteration"]] = {key: result["env_runners"][key] for key in FIGURES}
    return by_iteration


def standard_json(text):
    """Parses standard JSON, i.e. refuses the NaN and Infinity that Python accepts."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


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
def test_restored_run_saves_checkpoints(ray_cluster, tmp_path):
    first = invoke(*train_arguments(tmp_path, SMALL, iterations=2))
    assert first.exit_code == 0, first.stderr
    (checkpoint,) = tmp_path.glob("*/*/checkpoint_*")
    options = ("--restore", str(checkpoint), "--experiment-name", "on", "--storage-path", str(tmp_path))
    training = invoke(*IPD, "--config", json.dumps(SMALL), "--stop", '{"training_iteration": 3}', *options)
    assert training.exit_code == 0, training.stderr
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


def test_missing_gpus_are_refused(ray_cluster, tmp_path):
    result = invoke(*train_arguments(tmp_path, {**SMALL, "num_gpus_per_learner": 1}, iterations=1))
    assert result.exit_code == 2
    assert "a trial requests 1 GPUs; this machine has 0" in result.stderr
