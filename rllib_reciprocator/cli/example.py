"""The commands ``rllib example list``, ``get`` and ``run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rllib_reciprocator.cli import tuned_examples
from rllib_reciprocator.cli.options import one_line_errors, with_train_options
from rllib_reciprocator.cli.train import run_experiments

app = typer.Typer(
    help="List, print and train the package's tuned examples.", no_args_is_help=True, rich_markup_mode=None
)
Name = Annotated[str, typer.Argument(help="Name, as listed by `rllib example list`.")]


@app.command("list")
def example_list() -> None:
    """List the tuned examples."""
    for name in tuned_examples.names():
        typer.echo(f"{name:32} {tuned_examples.summary(name)}")


@app.command("get")
@one_line_errors
def example_get(name: Name) -> None:
    """Print the YAML of a tuned example."""
    typer.echo(_example(name).read_text(encoding="utf-8"), nl=False)


@app.command("run")
@with_train_options
@one_line_errors
def example_run(context: typer.Context, name: Name) -> None:
    """Train a tuned example."""
    from rllib_reciprocator.experiments.schema import read_file

    file = str(_example(name))
    run_experiments(read_file(file), file, context.params)


def _example(name: str) -> Path:
    """Returns the path of a tuned example.

    Raises:
        UserError: If there is no such example.
    """
    from rllib_reciprocator.utils.errors import UserError, unknown

    if name not in tuned_examples.names():
        raise UserError(f"example {name!r} is {unknown(name, tuned_examples.names())}")
    return tuned_examples.path(name)
