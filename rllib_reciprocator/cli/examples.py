"""The tuned examples that come with the package."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

PACKAGE = "rllib_reciprocator.tuned_examples"


def names() -> list[str]:
    """Names of all tuned examples."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files(PACKAGE).iterdir() if entry.name.endswith(".yaml")
    )


def text(name: str) -> str:
    """A tuned example's YAML."""
    return (files(PACKAGE) / f"{name}.yaml").read_text(encoding="utf-8")


def path(name: str) -> Path:
    """A tuned example's file."""
    with as_file(files(PACKAGE) / f"{name}.yaml") as file:
        return file


def summary(name: str) -> str:
    """The first line of a tuned example's header."""
    return text(name).splitlines()[0].lstrip("# ").strip()
