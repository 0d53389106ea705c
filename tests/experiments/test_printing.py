import io
from dataclasses import replace
from pathlib import PurePosixPath

import pytest
from pyarrow import fs
from rich.console import Console
from rich.table import Table

from rllib_reciprocator.experiments import outcome
from rllib_reciprocator.experiments.progress import brief
from rllib_reciprocator.experiments.schema import Experiment
from rllib_reciprocator.results.printing import print_table
from rllib_reciprocator.results.trial_folders import Group, TrialFolder


def render(table, width):
    console = Console(file=io.StringIO(), width=width)
    print_table(console, table)
    return console.file.getvalue()


def wide_table():
    table = Table(title="a sweep")
    names = [f"reciprocity/setting_{k}" for k in range(6)]
    for name in names:
        table.add_column(name)
    for row in range(2):
        table.add_row(*(f"value {row} {k} that is long" for k in range(6)))
    return table, names


def test_table_that_fits_is_printed_as_a_table():
    table, _ = wide_table()
    assert "┃" in render(table, 300)


def test_table_on_a_narrow_terminal_is_not_truncated():
    table, names = wide_table()
    text = render(table, 80)
    assert "…" not in text
    assert "┃" not in text
    for row in range(2):
        for k, name in enumerate(names):
            assert f"{name}  value {row} {k} that is long" in text


def test_help_on_a_narrow_terminal_truncates_no_option():
    import os
    import subprocess

    from tests.helpers.commands import RLLIB

    environment = {**os.environ, "COLUMNS": "80", "TERMINAL_WIDTH": "80"}
    process = subprocess.run(
        [RLLIB, "train", "file", "--help"], capture_output=True, text=True, check=True, env=environment
    )
    for option in ("--experiment-name", "--checkpoint-at-end", "--no-checkpoint-at-end", "--keep-checkpoints-num"):
        assert option in process.stdout
    assert max(map(len, process.stdout.splitlines())) <= 80


def test_reprs_are_short():
    results = [{"training_iteration": k, "config": "x" * 1000} for k in range(100)]
    trial = outcome.Trial("/x/PPO_1", None, {"lr": 1}, {"a": "ppo"}, results, None, None)
    folder = TrialFolder("/x/PPO_1", {"lr": 1}, results)
    assert len(repr(trial)) < 200
    assert len(repr(Group("x", {"lr": 1}, [folder]))) < 200


def test_summary_counts_failed_trials():
    def trial(rate, seed, cooperation, error=None):
        result = {
            "training_iteration": 1,
            "time_total_s": 1.0,
            "env_runners": {"outcomes": {"a": {"rate": cooperation}}},
        }
        results = [] if cooperation is None else [result]
        return outcome.Trial("x", None, {"lr": rate, "seed": seed}, {}, results, None, error)

    trials = [
        trial(0.1, 1, 0.4),
        trial(0.1, 2, 0.9, "diverged"),
        trial(9.0, 1, None, "diverged"),
        trial(9.0, 2, None, "d"),
    ]
    table = outcome.summary(Experiment(name="x", run="Reciprocator"), trials)
    columns = {column.header: list(column.cells) for column in table.columns}
    assert columns == {
        "lr": ["0.1", "9"],
        "trials": ["2 (1 failed)", "2 (2 failed)"],
        "n": ["1", "0"],
        "iterations": ["1", "-"],
        "rate": ["0.400", "-"],
    }


def result_at(iteration, rate, **sampled):
    outcomes = {"a": {"rate": rate}, "b": {"rate": rate + 0.2}}
    return {
        "training_iteration": iteration,
        "time_total_s": float(iteration),
        "env_runners": {"outcomes": outcomes, "reward_per_step": {"a": 0.25, "b": 0.5}, **sampled},
    }


NO_EPISODE_ENDED = {
    "agent_episode_returns_mean": {"a": float("nan"), "b": float("nan")},
    "episode_return_mean": float("nan"),
}


def sweep_trial(lr, seed, rate, iterations, **sampled):
    results = [result_at(k, rate, **sampled) for k in range(1, iterations + 1)]
    return outcome.Trial(f"x/{lr}_{seed}", None, {"lr": lr, "seed": seed}, {}, results, None, None)


def columns_of(table):
    return {column.header: list(column.cells) for column in table.columns}


def test_sweep_means_leave_out_trials_stopped_by_the_scheduler():
    trials = [
        sweep_trial(0.1, 1, 0.6, 30),
        sweep_trial(0.1, 2, 0.8, 30),
        sweep_trial(0.1, 3, 0.0, 2),
        sweep_trial(9.0, 1, 0.1, 2),
        sweep_trial(9.0, 2, 0.3, 4),
    ]
    table = outcome.summary(Experiment(name="x", run="PPO", stop={"training_iteration": 30}), trials)
    columns = columns_of(table)
    assert columns["trials"] == ["3 (1 stopped early)", "2 (2 stopped early)"]
    assert columns["n"] == ["2", "1"]
    assert columns["iterations"] == ["30", "4"]
    # Means over agents are 0.7 and 0.9: mean 0.8, half-width 12.706 * 0.1 (Student's t, 1 degree of freedom).
    assert columns["rate"] == ["0.800 ± 1.271", "0.400"]


def test_trials_that_reached_their_stop_metric_are_averaged():
    trials = [sweep_trial(0.1, 1, 0.95, 3), sweep_trial(0.1, 2, 0.95, 8), sweep_trial(0.1, 3, 0.5, 2)]
    stop = {"training_iteration": 30, "env_runners/outcomes/a/rate": 0.9}
    columns = columns_of(
        outcome.summary(Experiment(name="x", run="PPO", stop=stop), [*trials, sweep_trial(0.2, 1, 0.1, 30)])
    )
    assert columns["trials"] == ["3 (1 stopped early)", "1"]
    assert (columns["n"], columns["iterations"]) == (["2", "1"], ["3 to 8", "30"])
    assert columns["rate"] == ["1.050 ± 0.000", "0.200"]


def test_collective_return_is_the_sum_over_agents():
    returns = {"agent_episode_returns_mean": {"a": -30.0, "b": -40.0}, "episode_return_mean": -70.0}
    line = brief(result_at(1, 0.5, **returns))
    assert line == "rate 0.500 0.700  collective return -70.0"
    alone = {"env_runners": {"agent_episode_returns_mean": {"default_agent": 20.0}, "episode_return_mean": 20.0}}
    assert brief(alone) == "return 20.0"
    trials = [sweep_trial(0.1, 1, 0.6, 3, **returns), sweep_trial(0.2, 1, 0.6, 3, **returns)]
    columns = columns_of(outcome.summary(Experiment(name="x", run="PPO", stop={"training_iteration": 3}), trials))
    assert columns["collective return"] == ["-70.000", "-70.000"]
    assert "return" not in columns


@pytest.mark.parametrize("sampled", [NO_EPISODE_ENDED, {}])
def test_rewards_per_step_where_no_episode_ended(tmp_path, sampled):
    """Rollouts can be shorter than episodes; RLlib then reports NaN as mean returns, or no returns."""
    trial = sweep_trial(0.1, 1, 0.5, 2, **sampled)
    assert brief(trial.results[-1]) == "rate 0.500 0.700  reward per step 0.250 0.500"
    console = Console(file=io.StringIO(), width=200)
    stored_trial = replace(trial, folder=PurePosixPath(tmp_path / "trial"), storage=fs.LocalFileSystem())
    experiment = Experiment(name="x", run="PPO", env="harvest_v0", stop={"training_iteration": 2})
    outcome.show(experiment, [stored_trial], console)
    text = console.file.getvalue()
    rows = [line.replace("│", " ").split() for line in text.splitlines() if "│" in line]
    assert rows == [["a", "PPO", "0.250", "0.500"], ["b", "PPO", "0.500", "0.700"]]
    assert "reward per step" in text
    assert "nan" not in text
    assert (tmp_path / "learning_curves.png").stat().st_size > 1000
    columns = columns_of(outcome.summary(experiment, [trial, sweep_trial(0.1, 2, 0.5, 2, **sampled)]))
    assert columns["collective reward per step"] == ["0.750 ± 0.000"]
