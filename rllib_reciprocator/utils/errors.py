"""Errors that users can fix, as one line with the place, the problem and the nearest valid name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from pydantic import ValidationError

from social_dilemmas.registry import did_you_mean

LONGEST_MESSAGE = 380


class UserError(ValueError):
    """Error in the user's input. Its message is one line, which commands print before they exit with code 2."""

    def __init__(self, message: str) -> None:
        """Formats a message as one line of printable characters, and omits the middle of a long message."""
        line = " ".join(message.split())
        line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)
        if len(line) > LONGEST_MESSAGE:
            line = f"{line[: LONGEST_MESSAGE - 123]} .. {line[-119:]}"
        super().__init__(line)


def unknown(name: object, valid_names: Iterable[str]) -> str:
    """Returns a message that a name is not known, with the nearest known name."""
    return f"not known{did_you_mean(str(name), valid_names)}"


def user_path(path_text: str, where: str) -> Path:
    """Returns a path given by the user, with ``~`` expanded to the home folder.

    Args:
        path_text: The path.
        where: The option or key of the path, for messages.

    Raises:
        UserError: If it is not a usable path.
    """
    if not path_text or "\0" in path_text:
        raise UserError(f"{where}: {path_text!r} is not a path")
    try:
        path = Path(path_text).expanduser()
        path.exists()
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(f"{where}: {path_text} is not a usable path ({error})") from None
    return path


def output_path(path_text: str | None, option: str) -> Path | None:
    """Returns the path of an output file; None if no file is requested.

    Checks that the file can be written. Call it before any computation, so that no results are lost.

    Args:
        path_text: The path given by the user, or None.
        option: The option of the path, for messages.

    Raises:
        UserError: If the file cannot be written.
    """
    if path_text is None:
        return None
    file = user_path(path_text, option)
    with writing(option, file):
        if file.is_dir():
            raise IsADirectoryError("it is a folder")
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise PermissionError("no write permission")
    return file


@contextmanager
def writing(option: str, file: Path) -> Iterator[None]:
    """Creates the parent folder of an output file, and adds the option and the file to errors of the operating system.

    Args:
        option: The option of the file, e.g. ``--out``.
        file: The file, or a folder for several files.

    Raises:
        UserError: If the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"{option} {file}: cannot be written ({error})") from None


def explain(error: ValidationError, valid_keys: Iterable[str] = ()) -> tuple[str, str]:
    """Returns the path of the key and the description of the first problem in a pydantic error.

    Unknown keys precede all other problems.

    Args:
        error: The error.
        valid_keys: Valid keys, from which the nearest is suggested for an unknown key.
    """
    problems = error.errors(include_url=False, include_context=False)
    first_problem = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    path = [str(part) for part in first_problem["loc"]]
    if first_problem["type"] == "extra_forbidden":
        return ".".join(path), unknown(path[-1], valid_keys)
    input_text = repr(first_problem["input"])
    short_input = input_text if len(input_text) <= 60 else input_text[:57] + "..."
    message = f"{short_input}: {first_problem['msg'][0].lower()}{first_problem['msg'][1:]}"
    # For a union, pydantic appends a type name to the path of each branch. The prefix that all branches share is kept.
    locations = [problem["loc"] for problem in problems if problem["loc"][:1] == first_problem["loc"][:1]]
    common_parts = takewhile(lambda parts: len(set(parts)) == 1, zip(*locations, strict=False))
    return ".".join(str(part) for part, *_ in common_parts), message
