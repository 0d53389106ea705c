"""Runs the command `rllib` and reads what it wrote."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.testing

from rllib_reciprocator.cli.main import app
from rllib_reciprocator.utils.checkpoints import TRUST

RLLIB = str(Path(sys.executable).with_name("rllib"))
IPD = ("train", "--algo", "Reciprocator", "--env", "ipd_v0")
FIGURES = ("outcomes", "agent_episode_returns_mean", "influence", "balance")
SMALL = {"num_envs_per_env_runner": 16, "num_epochs": 2, "seed": 3}


# Builds the parser of the options once and not for each command, which takes 0.1 s.
typer.testing._get_command = functools.cache(typer.testing._get_command)


def invoke(*arguments):
    """Runs a command in this process. What ``--trust`` sets does not outlast the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TRUST, os.environ.get(TRUST, "0"))  # so that it is reset afterwards
        return typer.testing.CliRunner().invoke(app, list(arguments))


def run(*arguments):
    """Runs a command in a separate process, which starts and shuts down Ray."""
    return subprocess.run([RLLIB, *arguments], capture_output=True, text=True, timeout=300, check=False)


def train_arguments(storage, config, iterations):
    """Returns the arguments of a training run in the IPD that is configured by options."""
    stop = json.dumps({"training_iteration": iterations})
    return (*IPD, "--config", json.dumps(config), "--stop", stop, "--storage-path", str(storage))


def one_line(result, complaint):
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("rllib: ")
    assert complaint in result.stderr


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
