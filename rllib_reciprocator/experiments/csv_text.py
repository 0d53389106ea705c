"""Tables as CSV files that spreadsheets open without running what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

# A spreadsheet takes a cell that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_csv(table: pd.DataFrame, file: Path) -> None:
    """Writes a table as CSV, with an apostrophe before texts that a spreadsheet would take for a formula.

    Args:
        table: The table. Numbers, also several in one cell, are written as they are.
        file: The file.

    Raises:
        OSError: If it cannot be written.
    """
    escaped = table.rename(columns=escape_cell)
    texts = [name for name in escaped.columns if escaped[name].dtype.kind not in "biufc"]
    escaped = escaped.assign(**{name: escaped[name].map(escape_cell) for name in texts})
    escaped.to_csv(file, index=False, float_format="%.6g")


def escape_cell(value: Any) -> Any:
    """Returns a text that begins like a formula with an apostrophe before it, and anything else as it is."""
    if not isinstance(value, str) or not value.startswith(_FORMULA) or all(map(_is_number, value.split(" "))):
        return value
    return f"'{value}"


def _is_number(text: str) -> bool:
    """If True, the text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
