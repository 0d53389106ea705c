"""Evaluations as tables and files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.table import Table

from rllib_reciprocator.experiments.errors import writing
from rllib_reciprocator.experiments.json_text import to_json
from rllib_reciprocator.utils.metric_names import INNER_EPISODES


def write(report: dict[str, Any], file: Path) -> None:
    """Writes a report as JSON, with null for the interval of a single episode.

    Raises:
        UserError: If the file cannot be written.
    """
    with writing("--out", file):
        file.write_text(to_json(report, indent=2) + "\n", encoding="utf-8")


def tables(report: dict[str, Any]) -> list[Table]:
    """A report as tables: of all episodes, and if there is more than one of inner episodes by their number."""
    first = next(iter(report["players"].values()))
    return [table(report), inner_episodes_table(report)] if INNER_EPISODES in first else [table(report)]


def inner_episodes_table(report: dict[str, Any]) -> Table:
    """What every agent gets and does in each inner episode of a meta-episode, on average."""
    drawn = Table(title="by inner episode", title_justify="left")
    drawn.add_column("inner episode", justify="right")
    columns = []
    for agent, row in report["players"].items():
        for name, values in row[INNER_EPISODES].items():
            drawn.add_column(f"{agent} {name.replace('_', ' ')}", justify="right")
            columns.append(values)
    for number, values in enumerate(zip(*columns, strict=True)):
        drawn.add_row(str(number), *(f"{value:.3f}" for value in values))
    return drawn


def table(report: dict[str, Any]) -> Table:
    """A report as a table, mean and half-width of the 95% confidence interval if there is more than one episode."""
    drawn = Table(title=f"{report['env']}: {report['episodes']} episodes", title_justify="left")
    figures = [name for name in next(iter(report["players"].values())) if name not in ("player", INNER_EPISODES)]
    drawn.add_column("agent")
    drawn.add_column("player")
    for name in figures:
        drawn.add_column(name.replace("_", " "), justify="right")
    for agent, row in report["players"].items():
        drawn.add_row(agent, row["player"], *(_interval(**row[name]) for name in figures))
    return drawn


def _interval(mean: float, ci95: float) -> str:
    """Returns a mean and its interval for a cell."""
    return f"{mean:.3f} ± {ci95:.3f}" if math.isfinite(ci95) else f"{mean:.3f}"
