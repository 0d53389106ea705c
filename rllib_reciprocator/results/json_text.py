"""Reads and writes standard JSON, which cannot represent NaN and infinity as numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.logger.json import JsonLoggerCallback, SafeFallbackEncoder
from ray.tune.result import EXPR_PARAM_FILE

_INFINITIES = {"Infinity": float("inf"), "-Infinity": float("-inf")}


def to_json(value: object, *, indent: int | None = None, keep_infinities: bool = False) -> str:
    """Returns a value as standard JSON, with null for NaN.

    Args:
        value: Nested mappings and sequences of numbers and strings; other objects become strings.
        indent: Number of spaces per level; None for a single line.
        keep_infinities: If True, infinities become the strings ``Infinity`` and ``-Infinity``; otherwise null.
    """

    def replace_constant(constant: str) -> str | None:
        return constant if keep_infinities and constant in _INFINITIES else None

    text = json.dumps(value, cls=SafeFallbackEncoder, nan_str=None)
    return json.dumps(json.loads(text, parse_constant=replace_constant), indent=indent, allow_nan=False)


def settings_from_json(text: str) -> Any:
    """Returns settings from JSON, with infinities for the strings that :func:`to_json` writes for them.

    Raises:
        json.JSONDecodeError: If the text is not JSON.
    """
    return _with_infinities(json.loads(text))


def _with_infinities(value: object) -> Any:
    if isinstance(value, dict):
        return {key: _with_infinities(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_infinities(item) for item in value]
    return _INFINITIES.get(value, value) if isinstance(value, str) else value


class StandardJsonLogger(JsonLoggerCallback):
    """Logger that writes ``result.json`` and ``params.json`` as Tune does, but in standard JSON.

    Metrics that are not finite become null. Settings that are infinite become strings.
    """

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Appends a result as one line."""
        if trial not in self._trial_files:
            self.log_trial_start(trial)
        metrics = {key: value for key, value in result.items() if key != "config"}
        line = to_json(metrics)
        if "config" in result:
            line = f'{line[:-1]}, "config": {to_json(result["config"], keep_infinities=True)}}}'
        self._trial_files[trial].write(f"{line}\n")
        self._trial_files[trial].flush()

    def update_config(self, trial: Trial, config: dict[str, Any]) -> None:
        """Writes the settings of a trial."""
        super().update_config(trial, config)
        text = to_json(dict(sorted(config.items())), indent=2, keep_infinities=True)
        Path(trial.local_path, EXPR_PARAM_FILE).write_text(text, encoding="utf-8")
