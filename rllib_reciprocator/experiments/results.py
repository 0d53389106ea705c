"""Results as Tune writes them, and the settings that led to them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Parts of a result that hold metrics alone.
_METRICS = ("env_runners", "learners", "evaluation")


def parse_results(text: str) -> tuple[list[dict[str, Any]], list[int]]:
    """What a trial reported, one result an iteration; later reports of an iteration replace earlier ones.

    Metrics that are null, as JSON has no other word for NaN, become NaN.

    A run that is killed may leave half a line, to which the next one is then joined.

    Args:
        text: Of its ``result.json``, a result a line.

    Returns:
        The results by iteration, and the numbers of the lines that are not whole.
    """
    by_iteration: dict[int, dict[str, Any]] = {}
    broken = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            result = json.loads(line)
            metrics = {key: _with_nan(value) for key, value in result.items() if key in _METRICS}
            by_iteration[int(result["training_iteration"])] = {**result, **metrics}
        except (json.JSONDecodeError, KeyError, TypeError, ValueError):
            broken.append(number)
    return [by_iteration[iteration] for iteration in sorted(by_iteration)], broken


def _with_nan(value: Any) -> Any:
    """Returns nested metrics with NaN for None."""
    if isinstance(value, dict):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return math.nan if value is None else value


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings in which several differ, but for the seed."""
    names = dict.fromkeys(name for each in settings for name in each)
    return [name for name in names if name != "seed" and len({str(each.get(name)) for each in settings}) > 1]


def short(value: Any) -> str:
    """A setting for a table or a label."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def reason(line: str) -> str:
    """The last line of an error's traceback, which says what it was, without the package of the error's class."""
    return re.sub(r"^(?:\w+\.)*(?:DivergedError: |(?=\w+: ))", "", line)
