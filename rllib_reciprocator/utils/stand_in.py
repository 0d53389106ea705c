"""Placeholders for classes and functions in pickles that are not looked up."""

from __future__ import annotations

from typing import Any


class StandIn:
    """Placeholder for a class or function that is not on the list, or for the result of calling it.

    Attributes:
        module: Module of the class or function.
        name: Its qualified name.
        arguments: Arguments of the call; None if the name was only referred to.
    """

    def __init__(self, module: str, name: str, arguments: tuple[Any, ...] | None = None) -> None:
        self.module, self.name, self.arguments = module, name, arguments

    def __str__(self) -> str:
        """Describes the use of the name in the file, for error messages."""
        if by_value := self.class_by_value():
            return f"contains the code of {'.'.join(by_value)}"
        if self.name == "_make_function":
            return "contains the code of a function"
        return f"{'refers to' if self.arguments is None else 'calls'} {self.module}.{self.name}"

    def class_by_value(self) -> tuple[str, str] | None:
        """Returns module and name of a class that cloudpickle has pickled by value; None for anything else."""
        arguments = self.arguments or ()
        if self.name == "_make_skeleton_class" and len(arguments) > 3 and isinstance(arguments[3], dict):
            return str(arguments[3].get("__module__")), str(arguments[1])
        return None


def name_of(target: object) -> tuple[str, str]:
    """Returns module and name of a class, a function or a stand-in; of the class for any other object."""
    if isinstance(target, StandIn):
        return target.module, target.name
    if not hasattr(target, "__qualname__"):
        target = type(target)
    return str(target.__module__), str(target.__qualname__)
