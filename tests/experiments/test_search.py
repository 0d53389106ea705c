import pytest
from ray.tune.search.sample import Domain

from rllib_reciprocator.experiments import outcome
from rllib_reciprocator.experiments.schema import Experiment, typed, variants
from rllib_reciprocator.experiments.search import with_distributions
from rllib_reciprocator.utils.errors import UserError

RETURN = "env_runners/episode_return_mean"
ASHA = {"type": "async_hyperband", "grace_period": 2, "max_t": 8}


def experiment(**keys):
    defaults = {
        "run": "Reciprocator",
        "env": "ipd_v0",
        "stop": {"training_iteration": 1},
        "metric": RETURN,
        "mode": "max",
    }
    return typed("x", {**defaults, **keys}, "file")


def test_distributions_at_any_depth():
    settings = {
        "lr": {"tune": "loguniform", "args": [1e-4, 1e-2]},
        "reciprocity": {"weight": {"tune": "choice", "args": [[1, 2]]}},
    }
    space = with_distributions(settings)
    assert isinstance(space["lr"], Domain)
    assert space["reciprocity"]["weight"].sample() in (1, 2)
    configs = list(variants(settings))
    assert [(config["lr"], config["reciprocity"]["weight"]) for config in configs] == [(1e-4, 1), (1e-2, 1), (1e-4, 2)]


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"config": {"lr": {"tune": "loguniforme", "args": [1, 2]}}}, "config.lr.tune: .* did you mean 'loguniform'"),
        ({"config": {"lr": {"tune": "loguniform", "args": [0, 1]}}}, r"config.lr: loguniform does not accept \[0, 1\]"),
        ({"config": {"lr": {"tune": "uniform", "args": [1]}}}, r"config.lr: uniform does not accept \[1\]"),
        ({"scheduler": {"type": "ashaa"}}, "scheduler.type: 'ashaa' is not known; did you mean 'asha'"),
        ({"scheduler": {**ASHA, "grace_perio": 1}}, "scheduler.grace_perio: not known; did you mean 'grace_period'"),
        ({"scheduler": ASHA, "metric": None}, "needs metric and mode"),
        ({"search_alg": {"type": "optun"}}, "did you mean 'optuna'"),
        ({"search_alg": {"type": "optuna"}, "seeds": 3}, "seeds: cannot be combined with search_alg"),
        ({"config": {"seed": 1}, "seeds": 3}, "seeds: cannot be combined with config.seed"),
        ({"seeds": 0}, "seeds: 0"),
        ({"loggers": ["wandb"]}, "loggers: wandb is not installed"),
        ({"loggers": ["weights"]}, "loggers.0: 'weights'"),
    ],
)
def test_errors_name_the_invalid_key(monkeypatch, keys, complaint):
    monkeypatch.setattr("rllib_reciprocator.experiments.schema.find_spec", lambda name: None)
    with pytest.raises(UserError, match=complaint) as error:
        experiment(**keys)
    assert str(error.value).startswith("file: x.")


def trial(weight, seed, rate, error=None):
    sampled_result = {"outcomes": {"a": {"rate": rate}, "b": {"rate": rate + 0.2}}, "episode_return_mean": 7.0}
    result = {"training_iteration": 1, "env_runners": sampled_result}
    settings = {"reciprocity/weight": weight, "seed": seed, "lr": 0.1}
    return outcome.Trial(None, None, settings, {}, [result], None, error)


def test_summary_by_hand():
    trials = [trial(1.0, 1, 0.3), trial(1.0, 2, 0.5), trial(5.0, 1, 0.8), trial(5.0, 2, 0.8, "broke")]
    table = outcome.summary(Experiment(name="x", run="Reciprocator"), trials)
    columns = {column.header: list(column.cells) for column in table.columns}
    assert columns["reciprocity/weight"] == ["1", "5"]
    assert columns["trials"] == ["2", "2 (1 failed)"]
    # Means over players are 0.4 and 0.6: mean 0.5, half-width 12.71 * 0.1 (Student's t, 1 degree of freedom).
    assert columns["rate"][0] == "0.500 ± 1.271"
    assert columns["collective return"][0] == "7.000 ± 0.000"
    assert columns["n"] == ["2", "1"]
    assert "lr" not in columns
