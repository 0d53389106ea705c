"""Tables and files of evaluation reports."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.table import Table

from rllib_reciprocator.results.json_text import to_json
from rllib_reciprocator.utils.errors import writing
from rllib_reciprocator.utils.metric_names import INNER_EPISODES


def write(report: dict[str, Any], file: Path) -> None:
    """Writes a report as JSON. The interval of a single episode, which is undefined, is null.

    Raises:
        UserError: If the file cannot be written.
    """
    with writing("--out", file):
        file.write_text(to_json(report, indent=2) + "\n", encoding="utf-8")


def tables(report: dict[str, Any]) -> list[Table]:
    """Builds the tables of a report: one of all episodes and, for meta-episodes, one by inner episode."""
    first = next(iter(report["players"].values()))
    return [table(report), inner_episodes_table(report)] if INNER_EPISODES in first else [table(report)]


def inner_episodes_table(report: dict[str, Any]) -> Table:
    """Builds a table of every agent's mean metrics by inner episode."""
    rich_table = Table(title="by inner episode", title_justify="left")
    rich_table.add_column("inner episode", justify="right")
    columns = []
    for agent, row in report["players"].items():
        for name, values in row[INNER_EPISODES].items():
            rich_table.add_column(f"{agent} {name.replace('_', ' ')}", justify="right")
            columns.append(values)
    for number, values in enumerate(zip(*columns, strict=True)):
        rich_table.add_row(str(number), *(f"{value:.3f}" for value in values))
    return rich_table


def table(report: dict[str, Any]) -> Table:
    """Builds a table of means and, for more than one episode, half-widths of 95% confidence intervals."""
    rich_table = Table(title=f"{report['env']}: {report['episodes']} episodes", title_justify="left")
    metrics = [name for name in next(iter(report["players"].values())) if name not in ("player", INNER_EPISODES)]
    rich_table.add_column("agent")
    rich_table.add_column("player")
    for name in metrics:
        rich_table.add_column(name.replace("_", " "), justify="right")
    for agent, row in report["players"].items():
        rich_table.add_row(agent, row["player"], *(_interval(**row[name]) for name in metrics))
    return rich_table


def _interval(mean: float, ci95: float) -> str:
    """Formats a mean and its confidence interval."""
    return f"{mean:.3f} ± {ci95:.3f}" if math.isfinite(ci95) else f"{mean:.3f}"
