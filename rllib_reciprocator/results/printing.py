"""Prints tables on terminals of any width."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


def print_table(console: Console, table: Table) -> None:
    """Prints a table. If the terminal is too narrow, prints each row as lines of ``column  cell`` instead."""
    table_width = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    if table_width <= console.width:
        console.print(table)
        return
    if table.title:
        console.print(Text(str(table.title), style="bold"), soft_wrap=True)
    headers = [str(column.header) for column in table.columns]
    width = max(map(len, headers))
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        console.print()
        for header, cell in zip(headers, cells, strict=True):
            console.print(Text(f"{header:{width}}  {cell}"), soft_wrap=True)
