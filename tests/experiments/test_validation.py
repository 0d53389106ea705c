from pathlib import Path

import pytest

from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.experiments.schema import read_file, typed
from rllib_reciprocator.experiments.validation import check
from rllib_reciprocator.utils.errors import UserError

EXAMPLES = sorted(Path("tuned_examples").glob("*.yaml"))
HEADER = ("Source:", "Command:", "Expect:", "Minutes:")


LIO = {"run": "LIO", "env": "ipd_v0"}
ONLY_FIXED = {"scripted/random": 0.5, "scripted/tit_for_tat": 0.5}


def experiment(run="Reciprocator", env="ipd_v0", **config):
    stop = {"training_iteration": 1}
    return typed("x", {"run": run, "env": env, "stop": stop, "config": config}, "file")


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_tuned_examples_are_valid_and_described(file):
    for entry in read_file(file):
        check(entry, str(file))
        assert entry.name.replace("-", "_") == file.stem
    header = [line for line in file.read_text().splitlines() if line.startswith("#")]
    for word in HEADER:
        assert any(word in line for line in header), word
    assert not any("TODO" in line for line in header)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"run": "Reciprocater"}, "x.run: 'Reciprocater' is not known; did you mean 'Reciprocator'"),
        ({"run": "APO"}, "did you mean 'APPO'"),
        ({"env": "ipd_v1"}, "x.env: there is no game 'ipd_v1'; did you mean 'ipd_v0'"),
        ({"env": None}, "x.env: missing"),
        ({"lrr": 0.1}, "x.config.lrr: not known; did you mean 'lr'"),
        ({"lr": "fast"}, "x.config.lr: 'fast'"),
        ({"clip_param": "x", "lr": -1.0}, "x.config.clip_param: 'x'"),
        ({"num_epochs": 2.5}, "x.config.num_epochs: 2.5"),
        ({"use_kl_loss": "yes please"}, "x.config.use_kl_loss"),
        ({"num_env_runners": "two"}, "x.config.num_env_runners: 'two'"),
        ({"env_config": {"num_stepz": 3}}, "x.config.env_config.num_stepz: not known; did you mean 'num_steps'"),
        ({"env_config": {"num_steps": "x"}}, "x.config.env_config.num_steps: 'x'"),
        ({"env_config": {"num_steps": 0}}, "x.config.env_config: num_steps is 0"),
        ({"env_config": 3}, "x.config.env_config: 3 is not a mapping"),
        ({"players": {"player_2": "ppo"}}, "x.config.players.player_2: .* has no such agent; did you mean"),
        ({"players": {"*": "pro"}}, r"x.config.players.\*: there is no player 'pro'; did you mean 'ppo'"),
        ({"players": ["ppo"]}, "x.config.players: .* is not a mapping"),
        ({"reciprocity": {"weigth": 1}}, "x.config.reciprocity.weigth: not known; did you mean 'weight'"),
        ({"reciprocity": {"reward": "pety"}}, "x.config.reciprocity.reward: 'pety'"),
        ({"reciprocity": {"weight": "much"}}, "x.config.reciprocity.weight"),
        ({"reciprocity": {"weight": {"start": 1}}}, "x.config.reciprocity.weight"),
        ({"reciprocity": {"balance_decay": 1.5}}, "x.config.reciprocity.balance_decay: 1.5"),
        (
            {"model_config": {"fcnet_hidden": [3]}},
            "x.config.model_config.fcnet_hidden: not known; did you mean 'fcnet_hiddens'",
        ),
        ({"model_config": {"fcnet_hiddens": [0]}}, "x.config.model_config.fcnet_hiddens"),
        ({"model_config": {"use_gru": True, "use_lru": True}}, "x.config.model_config: .* a network has one memory"),
        ({"meta": {"inner_episode": 3}}, "x.config.meta.inner_episode: not known; did you mean 'inner_episodes'"),
        ({"learning_players": {"pg": 3}}, "x.config.learning_players.pg: 3 is not a mapping"),
        ({"learning_players": {"pg": {"lambda": 2.0}}}, "x.config.learning_players.pg.lambda: 2.0"),
        (
            {"learning_players": {"pg": {"model_config": {"fcnet_hidden": [3]}}}},
            "x.config.learning_players.pg.model_config.fcnet_hidden: not known; did you mean 'fcnet_hiddens'",
        ),
        ({"minibatch_size": 10**9}, "x.config.minibatch_size: 1000000000 is not between"),
        ({"train_batch_size_per_learner": 5}, "x.config.train_batch_size_per_learner: 5 does not match"),
        ({"num_envs_per_env_runner": 3, "num_learners": 2}, "x.config.num_learners: .* cannot be split evenly"),
        ({"lr": {"grid_search": [0.1, "slow"]}}, "x.config.lr: 'slow'"),
        ({"run": "PPO", "env": "CartPole-v1", "lrr": 1}, "did you mean 'lr'"),
        ({"run": "PPO", "env": "CartPol-v1"}, "x.env: 'CartPol-v1' is not known; did you mean 'CartPole-v1'"),
        ({"run": "PPO", "env": "ipd_v0"}, "x.env: ipd_v0 has several agents; assign players to them"),
        ({"run": "PPO", "env": None}, "x.env: missing"),
        (
            {"run": "PPO", "env": "CartPole-v1", "players": {}},
            "x.config.env: 'CartPole-v1' is not a registered multi-agent",
        ),
        ({"run": "PPO", "env": "CartPole-v1", "minibatch_size": 10**6}, "x.config: .*minibatch_size"),
        (
            {"batch_mode": "x"},
            "x.config.batch_mode: 'x' is not known; valid options are complete_episodes, truncate_episodes",
        ),
        (
            {"run": "PPO", "env": "CartPole-v1", "batch_mode": "truncate"},
            "x.config.batch_mode: 'truncate' is not known; did you mean 'truncate_episodes'",
        ),
        ({"num_envs_per_env_runner": 10**9}, "x.config.num_envs_per_env_runner: 1000000000 must be .* at most 1e[+]08"),
        (
            {"run": "PPO", "env": "CartPole-v1", "num_envs_per_env_runner": 10**9},
            "x.config.num_envs_per_env_runner: 1000000000 must be .* at most 1e[+]08",
        ),
        ({"learning_players": {"": {}}}, "x.config.learning_players: '' cannot be written as learner/NAME"),
        ({"learning_players": {"a/b": {}}}, "x.config.learning_players: 'a/b' cannot be written as learner/NAME"),
        ({**LIO, "updates_per_iteration": 0}, "x.config.updates_per_iteration: 0 must be at least 1"),
        *(
            (
                {**LIO, "players": {"player_0": "lio", "player_1": co_player}},
                r"x.config.players.player_0: incentives .* set \{player: lio, gives: false\}",
            )
            for co_player in ("scripted/tit_for_tat", "axelrod/Grudger", "learner/pg", {"pool": ONLY_FIXED})
        ),
        (
            {"run": "Shaper", "num_envs_per_env_runner": 8},
            "x.config.num_envs_per_env_runner: 8 environments are one group of meta.copies 8",
        ),
        ({"run": "Shaper", "sigma": 0}, "x.config.sigma: 0 is out of range"),
        ({"run": "Shaper", "sigma": [[0, 0.3], [9, 0]]}, "x.config.sigma: 0 at step 9 is out of range"),
        ({"local_runner_device": "meta"}, "x.config.local_runner_device: 'meta' is not auto, cpu or cuda"),
    ],
)
def test_invalid_settings_are_refused(settings, complaint):
    with pytest.raises(UserError, match=complaint) as error:
        check(experiment(**settings), "file")
    assert str(error.value).startswith("file: x.")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_missing_gpu_is_refused(monkeypatch, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    problem = f"x.config.local_runner_device: '{device}': this machine has no CUDA device; use auto or cpu"
    with pytest.raises(UserError, match=problem):
        check(experiment(local_runner_device=device), "file")
    # If a GPU is requested for the algorithm, it may run on another machine, so that the device is not checked here.
    check(experiment(local_runner_device=device, num_gpus_per_learner=1), "file")


def test_python_configurations_are_validated_too():
    config = algorithm_class("LIO").get_default_config().environment("ipd_v0")
    for settings, problem in (
        ({"updates_per_iteration": 0}, "^updates_per_iteration: 0 must be at least 1$"),
        ({"batch_mode": "x"}, "^batch_mode: 'x' is not truncate_episodes or complete_episodes"),
        ({"num_envs_per_env_runner": 10**9}, "^num_envs_per_env_runner: 1000000000 is more than the 100000000"),
    ):
        with pytest.raises(ValueError, match=problem):
            config.copy().update_from_dict(settings).validate()
    with pytest.raises(ValueError, match=r"^learning_players: '' cannot be written as learner/NAME"):
        config.learning_player("")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {**LIO, "players": {"player_0": {"player": "lio", "gives": False}, "player_1": "scripted/tit_for_tat"}},
        {**LIO, "players": {"player_0": "lio", "player_1": {"pool": {"pg": 0.5, "scripted/random": 0.5}}}},
        {**LIO, "players": {"player_*": "team/all"}},
        {"batch_mode": "complete_episodes"},
        {"lr": 1, "lambda": 0.9, "env_config": {"num_steps": 3}},
        {"lr": {"grid_search": [0.1, 0.2]}, "reciprocity": {"reward": {"grid_search": ["petty", "petty_payoff"]}}},
        {"reciprocity": {"weight": {"start": 0.7, "end": 0.2, "per_iteration": 0.1}}},
        {"env": "coins_v0", "players": {"*": "ppo"}, "env_config": {"grid_size": [3, 4], "num_agents": 3}},
        {"env": "public_goods_v0", "env_config": {"num_agents": 3, "multiplier": 2}},
        {"lr": [[0, 0.1], [1000, 0.01]], "num_env_runners": 2, "model_config": {"fcnet_activation": "tanh"}},
        {"run": "PPO", "env": "CartPole-v1", "model_config": {"fcnet_hiddens": [8]}, "lr": 1e-3},
        {"entropy_coeff": [[0, 0.01], [1000, 0.001]]},
        {"run": "PPO", "env": "CartPole-v1", "entropy_coeff": [[0, 0.01], [1000, 0.001]]},
        {"run": "APPO", "env": "CartPole-v1"},
    ],
)
def test_valid_settings(settings):
    check(experiment(**settings), "file")
