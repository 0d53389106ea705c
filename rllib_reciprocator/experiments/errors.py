"""What a user can mend: one line that says where, what, and the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError


class UserError(ValueError):
    """An error in what the user gave. Its text is one line; commands print it and end with exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def unknown(name: Any, known: Iterable[str]) -> str:
    """Says that a name is not known, with the nearest that is."""
    near = difflib.get_close_matches(str(name), sorted(known), n=1, cutoff=0.5)
    return f"not known; did you mean {near[0]!r}?" if near else f"not known; there are {', '.join(sorted(known))}"


def explain(error: ValidationError, known: Iterable[str] = ()) -> tuple[str, str]:
    """The first problem of a pydantic error: the key's path, and what is wrong.

    Args:
        error: The error.
        known: Valid names, for keys that are not.
    """
    problems = error.errors(include_url=False, include_context=False)
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    # Branches of a union stand in the path as type names; they are no keys of the user's.
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        return ".".join(path), unknown(path[-1], known)
    given = repr(first["input"])
    shown = given if len(given) <= 60 else given[:57] + "..."
    return ".".join(path[:1]) if len(problems) > 1 else ".".join(
        path
    ), f"{shown}: {first['msg'][0].lower()}{first['msg'][1:]}"
