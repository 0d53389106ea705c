"""Writes tables as CSV files, so that spreadsheets do not evaluate any cell as a formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

# Spreadsheets interpret cells that begin with these characters as formulas.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_csv(table: pd.DataFrame, file: Path) -> None:
    """Writes a table as CSV, with an apostrophe before texts that a spreadsheet would interpret as formulas.

    Args:
        table: The table. Numbers, including several numbers in one cell, are written without an apostrophe.
        file: The output file.

    Raises:
        OSError: If the file cannot be written.
    """
    escaped_table = table.rename(columns=escape_cell)
    text_columns = [name for name in escaped_table.columns if escaped_table[name].dtype.kind not in "biufc"]
    escaped_table = escaped_table.assign(**{name: escaped_table[name].map(escape_cell) for name in text_columns})
    escaped_table.to_csv(file, index=False, float_format="%.6g")


def escape_cell(value: object) -> Any:
    """Returns a text that begins like a formula with a leading apostrophe, and any other value unchanged."""
    if not isinstance(value, str) or not value.startswith(_FORMULA) or all(map(_is_number, value.split(" "))):
        return value
    return f"'{value}"


def _is_number(text: str) -> bool:
    """Returns True if the text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
