"""The `rllib` command, assembled from one module per command."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from rllib_reciprocator.cli import example, train
from rllib_reciprocator.cli.evaluate import evaluate
from rllib_reciprocator.cli.options import one_line_errors
from rllib_reciprocator.cli.report import report
from rllib_reciprocator.cli.tournament import tournament

# Without markup, help is plain text, which does not truncate option names on narrow terminals.
app = typer.Typer(
    help="Cooperation between self-interested agents, with RLlib.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (evaluate, tournament, report):
    app.command()(one_line_errors(command))
app.add_typer(train.app, name="train")
app.add_typer(example.app, name="example")


def main() -> None:
    """Runs the console script ``rllib``."""
    # As with `python -m`, user-defined games, modules and environments can be imported from the working directory.
    sys.path.insert(0, str(Path.cwd()))
    sys.exit(app())
