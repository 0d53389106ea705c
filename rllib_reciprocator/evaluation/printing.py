"""Evaluations as tables and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from rllib_reciprocator.experiments.errors import writing


def write(report: dict[str, Any], file: Path) -> None:
    """Writes a report as JSON.

    Raises:
        UserError: If the file cannot be written.
    """
    with writing("--out", file):
        file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def table(report: dict[str, Any]) -> Table:
    """A report as a table, mean and half-width of the 95% confidence interval."""
    drawn = Table(title=f"{report['env']}: {report['episodes']} episodes", title_justify="left")
    figures = [name for name in next(iter(report["players"].values())) if name != "player"]
    drawn.add_column("agent")
    drawn.add_column("player")
    for name in figures:
        drawn.add_column(name.replace("_", " "), justify="right")
    for agent, row in report["players"].items():
        drawn.add_row(agent, row["player"], *(f"{row[name]['mean']:.3f} ± {row[name]['ci95']:.3f}" for name in figures))
    return drawn
