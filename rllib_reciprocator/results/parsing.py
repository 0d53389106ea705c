"""Parses the results that Tune writes, and formats and compares settings of trials."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Keys of a result that contain only metrics.
_METRICS = ("env_runners", "learners", "evaluation")


def parse_results(text: str) -> tuple[list[dict[str, Any]], list[int]]:
    """Parses the results of a trial, one per iteration. Later results of an iteration replace earlier ones.

    Metrics that are null become NaN, which JSON cannot represent.

    A run that is killed may leave an incomplete line, to which the next line is then appended.

    Args:
        text: Contents of the trial's ``result.json``, one result per line.

    Returns:
        The results, sorted by iteration, and the numbers of the lines that cannot be parsed.
    """
    by_iteration: dict[int, dict[str, Any]] = {}
    invalid_lines = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            result = json.loads(line)
            metrics = {key: _with_nan(value) for key, value in result.items() if key in _METRICS}
            by_iteration[int(result["training_iteration"])] = {**result, **metrics}
        except (json.JSONDecodeError, KeyError, TypeError, ValueError):
            invalid_lines.append(number)
    return [by_iteration[iteration] for iteration in sorted(by_iteration)], invalid_lines


def _with_nan(value: object) -> Any:
    """Returns nested metrics with NaN for None."""
    if isinstance(value, dict):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return math.nan if value is None else value


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the names of the settings that differ between trials, except the seed."""
    names = dict.fromkeys(name for trial_settings in settings for name in trial_settings)
    return [
        name
        for name in names
        if name != "seed" and len({str(trial_settings.get(name)) for trial_settings in settings}) > 1
    ]


def short(value: object) -> str:
    """Formats a setting for a table or a label."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def reason(line: str) -> str:
    """Returns the last line of a traceback without the module of the error's class.

    For ``DivergedError``, the name of the class is removed as well.
    """
    return re.sub(r"^(?:\w+\.)*(?:DivergedError: |(?=\w+: ))", "", line)
