import io

from rich.console import Console
from rich.table import Table

from rllib_reciprocator.experiments import outcome
from rllib_reciprocator.experiments.printing import print_table
from rllib_reciprocator.experiments.schema import Experiment
from rllib_reciprocator.reports.runs import Group, TrialFolder


def printed(table, width):
    console = Console(file=io.StringIO(), width=width)
    print_table(console, table)
    return console.file.getvalue()


def wide():
    table = Table(title="a sweep")
    names = [f"reciprocity/setting_{k}" for k in range(6)]
    for name in names:
        table.add_column(name)
    for row in range(2):
        table.add_row(*(f"value {row} {k} that is long" for k in range(6)))
    return table, names


def test_a_table_that_fits_is_a_table():
    table, _ = wide()
    assert "┃" in printed(table, 300)


def test_on_a_narrow_terminal_nothing_is_cut():
    table, names = wide()
    text = printed(table, 80)
    assert "…" not in text
    assert "┃" not in text
    for row in range(2):
        for k, name in enumerate(names):
            assert f"{name}  value {row} {k} that is long" in text


def test_help_on_a_narrow_terminal_cuts_no_option():
    import os
    import subprocess

    from tests.cli.test_cli import RLLIB

    environment = {**os.environ, "COLUMNS": "80", "TERMINAL_WIDTH": "80"}
    shown = subprocess.run(
        [RLLIB, "train", "file", "--help"], capture_output=True, text=True, check=True, env=environment
    )
    for option in ("--experiment-name", "--checkpoint-at-end", "--no-checkpoint-at-end", "--keep-checkpoints-num"):
        assert option in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_what_a_notebook_shows_is_short():
    results = [{"training_iteration": k, "config": "x" * 1000} for k in range(100)]
    trial = outcome.Trial("/x/PPO_1", None, {"lr": 1}, {"a": "ppo"}, results, None, None)
    folder = TrialFolder("/x/PPO_1", {"lr": 1}, results)
    assert len(repr(trial)) < 200
    assert len(repr(Group("x", {"lr": 1}, [folder]))) < 200


def test_failures_by_hand():
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
    assert columns == {"lr": ["0.1", "9"], "trials": ["2 (1 failed)", "2 (2 failed)"], "rate": ["0.400", "-"]}
