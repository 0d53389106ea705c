"""The command ``rllib report``."""

from __future__ import annotations

from typing import Annotated

import typer

from rllib_reciprocator.cli.options import Trust, trust_pickles


def report(
    runs: Annotated[list[str], typer.Argument(help="Run folders: one of a run or a sweep, or several to compare.")],
    out: Annotated[str, typer.Option(help="HTML file to write.")] = "report.html",
    axis: Annotated[str, typer.Option(help="Unit of the x-axes: iteration, steps or seconds.")] = "iteration",
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Random seed of the game that is shown.")] = 0,
    trust: Trust = False,
) -> None:
    """Write the results of runs to a self-contained HTML file."""
    from rllib_reciprocator.experiments import ray_cluster
    from rllib_reciprocator.reports.curves import AXES
    from rllib_reciprocator.reports.report import write_report
    from rllib_reciprocator.utils.errors import UserError, output_path, unknown

    ray_cluster.set_verbosity(0)
    trust_pickles(trust)
    if axis not in AXES:
        raise UserError(f"--axis {axis}: {unknown(axis, AXES)}")
    page = output_path(out, "--out")
    assert page is not None
    for problem in write_report(runs, page, axis=axis, seed=seed):
        typer.echo(f"rllib: {problem}", err=True)
    typer.echo(f"written to {out}")
