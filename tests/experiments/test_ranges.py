import math
from pathlib import Path

import pytest
from ray.rllib.algorithms.registry import ALGORITHMS

from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.experiments.ranges import check_range, range_of
from rllib_reciprocator.experiments.schema import typed
from rllib_reciprocator.experiments.validation import check, check_memory
from rllib_reciprocator.utils.errors import UserError

ZOO = {"run": "PPO", "env": "pettingzoo/classic/rps_v2", "players": {"*": "ppo"}}
NUMBERS = {
    name: [key for key, value in vars(algorithm_class(name).get_default_config()).items()
           if isinstance(value, int | float) and not isinstance(value, bool) and not key.startswith("_")]
    for name in ("Reciprocator", "PPO", "APPO", "IMPALA", "DQN", "SAC")
}  # fmt: skip


def experiment(run="Reciprocator", env="ipd_v0", stop=None, **config):
    return typed("x", {"run": run, "env": env, "stop": stop or {"training_iteration": 1}, "config": config}, "f")


@pytest.mark.parametrize("name", ["Reciprocator", *sorted(set(ALGORITHMS) - {"AlphaStar", "R2D2"})])
def test_defaults_of_every_algorithm_are_in_range(name):
    try:
        config = algorithm_class(name).get_default_config()
    except (ImportError, ValueError):
        pytest.skip("an optional package is not installed")
    for key, value in vars(config).items():
        if value != -1:  # RLlib's default of deprecated settings
            check_range(key, key, value)


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in NUMBERS.items() for key in keys])
def test_every_number_has_a_range(name, key):
    minimum = range_of(key).least
    for value in (math.nan, minimum - 1.0 - 0.1 * abs(minimum), -math.inf):
        with pytest.raises(UserError):
            check_range(key, key, value)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"lr": -1}, "config.lr: -1 must be at least 0"),
        ({"lr": math.nan}, "config.lr: nan must be at least 0"),
        ({"lr": math.inf}, "config.lr: inf must be at least 0"),
        ({"lr": [[0, 0.1], [10, -0.1]]}, "config.lr: -0.1 must be at least 0"),
        ({"lr": [[5, 0.1]]}, "must start at 0 and increase"),
        ({"lr": [[0, 0.1], [0, 0.2]]}, "must start at 0 and increase"),
        ({"lr": []}, "a schedule needs at least one"),
        ({"entropy_coeff": [[0, "x"]]}, "config.entropy_coeff: 'x' is not a number"),
        ({"gamma": 2}, "config.gamma: 2 must be at least 0 and at most 1"),
        ({"lambda": 2}, "config.lambda: 2 must be at least 0 and at most 1"),
        ({"clip_param": -0.2}, "config.clip_param: -0.2 must be above 0"),
        ({"num_env_runners": -3}, "config.num_env_runners: -3 must be at least 0"),
        ({"num_learners": -3}, "config.num_learners: -3 must be at least 0"),
        ({"num_epochs": 0}, "config.num_epochs: 0 must be at least 1"),
        ({"num_epochs": None}, "config.num_epochs: is null; omit it for the default, 10"),
        ({"seed": -1}, "config.seed: -1 must be"),
        ({"grad_clip": 0}, "config.grad_clip: 0 must be above 0"),
        ({"min_iter_time_s": 3}, "config.min_iter_time_s: not known"),
        ({"players": {"player_0": {"player": "ppo", "lr": "abc"}}}, "config.players.player_0.lr: 'abc'"),
        ({"players": {"player_0": {"player": "ppo", "gamma": 2}}}, "config.players.player_0.gamma: 2 must be"),
        ({"evaluation_config": {"gamma": 2}}, "config.evaluation_config.gamma: 2 must be"),
        ({"evaluation_config": {"gama": 1}}, "config.evaluation_config.gama: not known; did you mean 'gamma'"),
        ({"algorithm_config_overrides_per_module": {"player_0": {"lr": -1}}}, "per_module.player_0.lr: -1 must be"),
        ({"reciprocity": {"weight": math.nan}}, "config.reciprocity.weight"),
        ({"model_config": {"fcnet_hiddens": [1_000_000_000]}}, "config.model_config.fcnet_hiddens.0"),
        ({"model_config": {"fcnet_hiddens": [65536, 65536]}}, "has more than 268435456 weights"),
        ({"model_config": {"model": "rllib", "fcnet_hiddens": [10**9]}}, "fcnet_hiddens has a width that is not"),
        ({"reciprocity": {"estimator_hiddens": [60000, 60000]}}, "has more than 268435456 weights"),
        ({"env_config": {"num_steps": 10**9}}, "num_steps is 1000000000; it must be from 1 to"),
        ({"lr": {"tune": "uniform", "args": [-1, 1]}}, "config.lr: -1 must be at least 0"),
        ({"lr": {"tune": "choice", "args": [[0.1, -1]]}}, "config.lr: -1 must be at least 0"),
    ],
)
@pytest.mark.parametrize("run", ["Reciprocator", "PPO"])
def test_numbers_out_of_range_are_refused(run, settings, complaint):
    required_config = {"players": {"*": "reciprocator"}, "num_env_runners": 0} if run == "PPO" else {}
    if run == "PPO" and (
        "'abc'" not in complaint and any(word in complaint for word in ("fcnet_hiddens.0", "default, 10"))
    ):
        complaint = complaint.replace("fcnet_hiddens.0", "").replace("default, 10", "default, 30")
    with pytest.raises(UserError, match=complaint):
        check(experiment(run, **{**required_config, **settings}), "f")


@pytest.mark.parametrize(
    ("env_config", "complaint"),
    [
        ({"grid_size": 10_000_000}, "has more than 4096 cells"),
        ({"grid_size": [3, 100_000]}, "has more than 4096 cells"),
        ({"num_agents": 10**9}, "num_agents is 1000000000; it must be from 2 to 100"),
    ],
)
def test_game_sizes_out_of_range_are_refused(env_config, complaint):
    with pytest.raises(UserError, match=complaint):
        check(experiment(env="coins_v0", env_config=env_config), "f")


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"seeds": 10**9}, "x.seeds: 1000000000"),
        ({"num_samples": 10**9}, "x.num_samples: 1000000000"),
        ({"num_samples": 5000, "seeds": 5000}, "results in 25000000 trials"),
        (
            {"config": {"lr": {"grid_search": [0.1] * 200}, "gamma": {"grid_search": [0.5] * 200}}},
            "results in 40000 trials",
        ),
        ({"scheduler": {"type": "pbt"}}, "x.scheduler: .*hyperparam_mutations"),
        ({"scheduler": {"type": ["a"]}}, r"x.scheduler.type: \['a'\] is not known"),
        ({"scheduler": {"type": "asha", "brackets": 10**9}}, "x.scheduler.brackets: 1000000000 is not a number from 1"),
        ({"scheduler": {"type": "asha", "grace_period": "x"}}, "x.scheduler: "),
        ({"search_alg": {"type": {"a": 1}}}, "x.search_alg.type"),
        ({"config": {"lr": {"tune": "uniform", "args": 3}}}, "config.lr.args: 3 is not a list"),
        ({"config": {"lr": {"tune": "uniform", "args": [{}, []]}}}, "config.lr: uniform does not accept"),
    ],
)
def test_invalid_sweeps_are_refused(keys, complaint):
    common_keys = {"metric": "env_runners/episode_return_mean", "mode": "max", "stop": {"training_iteration": 1}}
    with pytest.raises(UserError, match=complaint):
        typed("x", {"run": "Reciprocator", "env": "ipd_v0", **common_keys, **keys}, "f")


def test_schedulers_use_training_iterations_by_default():
    from rllib_reciprocator.experiments.search import scheduler

    mutations = {"lr": {"tune": "uniform", "args": [0.1, 0.2]}}
    assert scheduler({"type": "pbt", "hyperparam_mutations": mutations}, "s")._time_attr == "training_iteration"
    pbt = scheduler({"type": "pbt", "time_attr": "time_total_s", "hyperparam_mutations": mutations}, "s")
    assert pbt._time_attr == "time_total_s"


def test_rollouts_that_exceed_the_memory_are_refused():
    large = experiment(num_envs_per_env_runner=50_000_000)
    with pytest.raises(UserError, match=r"num_envs_per_env_runner: the samples of an iteration need .* GiB"):
        check_memory(large, check(large, "f"), "f")
    small = experiment()
    check_memory(small, check(small, "f"), "f")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"run": "DQN", "players": {"*": "ppo"}}, "config.players: not for DQN; run one of"),
        ({"run": "SAC", "env": "Pendulum-v1", "reciprocity": {}}, "config.reciprocity: not for SAC"),
        ({**ZOO, "env": "pettingzoo/../x"}, "'pettingzoo/../x' is not pettingzoo/MODULE"),
        ({**ZOO, "env": "pettingzoo/mpe/simple_v3"}, "pip install mpe2 and use .*mpe2.simple_v3"),
        ({**ZOO, "env": "pettingzoo/nosuch/x_v1"}, "there is no module pettingzoo.nosuch"),
        ({**ZOO, "env_config": {"wrappers": ["flaten_v0"]}}, "no wrapper 'flaten_v0'; did you mean 'flatten_v0'"),
        ({**ZOO, "env_config": {"wrappers": [{"dtype_v0": 3}]}}, "wrappers.dtype_v0: 3 is not a mapping"),
        ({**ZOO, "env_config": {"nosuch": 3}}, "nosuch"),
        ({"run": "PPO", "env": "nosuch.module.Env"}, "env: 'nosuch.module.Env': nosuch.module cannot be imported"),
        ({"run": "PPO", "env": "json.Decoder"}, "json has no 'Decoder'; did you mean"),
        ({"run": "PPO", "env": "../x"}, "env: "),
        ({"run": "PPO", "env": "CartPole-v1", "model_config": {"fcnet_hidden": [3]}}, "did you mean 'fcnet_hiddens'"),
    ],
)  # fmt: skip
def test_invalid_environments_and_algorithms_are_refused(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        check(experiment(**settings), "f")


@pytest.mark.parametrize("run", ["Reciprocator", "PPO"])
def test_replacing_players_alone_gives_a_baseline(caplog, run):
    required_config = {"num_env_runners": 0} if run == "PPO" else {}
    check(experiment(run, players={"*": "ppo"}, reciprocity={"weight": 1.0}, **required_config), "f")
    note = "f: x.config.reciprocity: no player reciprocates, so it is not used"
    assert caplog.messages.count(note) == 1
    caplog.clear()
    check(experiment(run, players={"*": "reciprocator"}, reciprocity={"weight": 1.0}, **required_config), "f")
    assert note not in caplog.messages


def test_shipped_files_are_in_range():
    from rllib_reciprocator.experiments.schema import read_file

    for file in Path("tuned_examples").glob("*.yaml"):
        for entry in read_file(file):
            check(entry, str(file))
