import pytest

from rllib_reciprocator.experiments.schema import read_file, typed, variants
from rllib_reciprocator.experiments.yaml_text import parse
from rllib_reciprocator.utils.errors import UserError


def test_variants_show_every_alternative_once():
    settings = {"lr": {"grid_search": [1, 2, 3]}, "deep": {"a": {"grid_search": [{"b": 4}, {"b": 5}]}}, "c": 6}
    configs = list(variants(settings))
    assert configs[0] == {"lr": 1, "deep": {"a": {"b": 4}}, "c": 6}
    assert [v["lr"] for v in configs] == [1, 2, 3, 1]
    assert configs[3]["deep"] == {"a": {"b": 5}}


def test_numbers_in_common_notations():
    assert parse("{lr: 5e-3, gamma: .96, clip: 1e-1, n: 10}", "x") == {"lr": 0.005, "gamma": 0.96, "clip": 0.1, "n": 10}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [1, 2", "line 1: "),
        ("- 1\n- 2", "must be a mapping"),
        ("", "must be a mapping"),
        ("{}", "contains no experiment"),
        ("x: 3", "x: must be a mapping with run"),
        ("x: {env: ipd_v0}", "x.run: "),
        ("x: {run: PPO, stopp: {}}", "x.stopp: not known; did you mean 'stop'"),
        ("x: {run: PPO, num_samples: 0}", "x.num_samples: 0: "),
        ("x: {run: PPO, num_samples: many}", "x.num_samples: 'many': "),
        (
            "x: {run: PPO, stop: {training_iterations: 3}}",
            "x.stop.training_iterations: not known; did you mean 'training_iteration'",
        ),
        ("x: {run: PPO, stop: {training_iteration: soon}}", "x.stop.*'soon'"),
    ],
)
def test_invalid_files_are_refused(tmp_path, text, complaint):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=complaint) as error:
        read_file(file)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


def test_missing_or_unreadable_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_file(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        read_file(tmp_path / "binary.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_file(tmp_path)


def test_stop_metrics_may_be_nested():
    stop = {"env_runners/outcomes/player_0/cooperation_rate": 0.9}
    assert typed("x", {"run": "Reciprocator", "stop": stop}, "here").stop == stop
