"""Tests options, error messages, help and examples of the command `rllib`."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import IPD, SMALL, invoke, one_line, run, train_arguments


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


def test_missing_gpus_are_refused(ray_cluster, tmp_path):
    result = invoke(*train_arguments(tmp_path, {**SMALL, "num_gpus_per_learner": 1}, iterations=1))
    assert result.exit_code == 2
    assert "a trial requests 1 GPUs; this machine has 0" in result.stderr
