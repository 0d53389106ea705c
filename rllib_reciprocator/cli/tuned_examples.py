"""Access to the tuned examples that are part of the package."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

PACKAGE = "rllib_reciprocator.tuned_examples"


def names() -> list[str]:
    """Returns the names of all tuned examples."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files(PACKAGE).iterdir() if entry.name.endswith(".yaml")
    )


def text(name: str) -> str:
    """Returns the YAML text of a tuned example."""
    return (files(PACKAGE) / f"{name}.yaml").read_text(encoding="utf-8")


def path(name: str) -> Path:
    """Returns the path of a tuned example's file."""
    with as_file(files(PACKAGE) / f"{name}.yaml") as file:
        return file


def summary(name: str) -> str:
    """Returns the first line of a tuned example's header."""
    return text(name).splitlines()[0].lstrip("# ").strip()
