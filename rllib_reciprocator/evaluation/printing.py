"""Evaluations as tables and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from rllib_reciprocator.experiments.errors import writing
from rllib_reciprocator.metric_names import INNER_EPISODES


def write(report: dict[str, Any], file: Path) -> None:
    """Writes a report as JSON.

    Raises:
        UserError: If the file cannot be written.
    """
    with writing("--out", file):
        file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


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
    """A report as a table, mean and half-width of the 95% confidence interval."""
    drawn = Table(title=f"{report['env']}: {report['episodes']} episodes", title_justify="left")
    figures = [name for name in next(iter(report["players"].values())) if name not in ("player", INNER_EPISODES)]
    drawn.add_column("agent")
    drawn.add_column("player")
    for name in figures:
        drawn.add_column(name.replace("_", " "), justify="right")
    for agent, row in report["players"].items():
        drawn.add_row(agent, row["player"], *(f"{row[name]['mean']:.3f} ± {row[name]['ci95']:.3f}" for name in figures))
    return drawn
