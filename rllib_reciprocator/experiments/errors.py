"""What a user can mend: one line that says where, what, and the nearest valid name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from social_dilemmas.registry import did_you_mean

LONGEST_MESSAGE = 380


class UserError(ValueError):
    """An error in what the user gave. Its text is one line; commands print it and end with exit code 2."""

    def __init__(self, message: str) -> None:
        """Makes one line of a message that any terminal can show, and leaves out the middle of a long one."""
        line = " ".join(message.split())
        line = "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)
        if len(line) > LONGEST_MESSAGE:
            line = f"{line[: LONGEST_MESSAGE - 123]} .. {line[-119:]}"
        super().__init__(line)


def unknown(name: Any, known: Iterable[str]) -> str:
    """Says that a name is not known, with the nearest that is."""
    return f"not known{did_you_mean(str(name), known)}"


def user_path(written: str, where: str) -> Path:
    """The path that a user wrote, with ``~`` for the home folder.

    Args:
        written: The path.
        where: The option or key that it is of, for messages.

    Raises:
        UserError: If it cannot be one.
    """
    if not written or "\0" in written:
        raise UserError(f"{where}: {written!r} is not a path")
    try:
        path = Path(written).expanduser()
        path.exists()
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(f"{where}: {written} is not a path that can be used ({error})") from None
    return path


def output_path(written: str | None, option: str) -> Path | None:
    """The path of a file that is to be written; None if none is.

    Looked at before anything is computed, so that nothing is lost.

    Args:
        written: The path that a user wrote.
        option: The option that it is of, for messages.

    Raises:
        UserError: If nothing can be written there.
    """
    if written is None:
        return None
    file = user_path(written, option)
    with writing(option, file):
        if file.is_dir():
            raise IsADirectoryError("it is a folder")
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise PermissionError("no right to write there")
    return file


@contextmanager
def writing(option: str, file: Path) -> Iterator[None]:
    """Makes the folder that a file goes to; says which file it is if something cannot be written.

    Args:
        option: What the user gave the file with, as ``--out``.
        file: The file, or a folder for several.

    Raises:
        UserError: If it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"{option} {file}: cannot be written ({error})") from None


def explain(error: ValidationError, known: Iterable[str] = ()) -> tuple[str, str]:
    """The first problem of a pydantic error: the key's path, and what is wrong.

    Args:
        error: The error.
        known: Valid names, for keys that are not.
    """
    problems = error.errors(include_url=False, include_context=False)
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        return ".".join(path), unknown(path[-1], known)
    given = repr(first["input"])
    shown = given if len(given) <= 60 else given[:57] + "..."
    message = f"{shown}: {first['msg'][0].lower()}{first['msg'][1:]}"
    # Branches of a union stand at the end of paths as type names, which are no keys of the user's.
    alike = [problem["loc"] for problem in problems if problem["loc"][:1] == first["loc"][:1]]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*alike, strict=False))
    return ".".join(str(part) for part, *_ in shared), message
