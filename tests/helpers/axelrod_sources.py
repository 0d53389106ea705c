"""Speeds up the import of the Axelrod library, which reads the source of the same functions thousands of times."""

import functools
import inspect


def cache_sources():
    """Makes ``inspect.getsource`` keep the source of each function of the library."""
    read_source = inspect.getsource
    read_source_once = functools.cache(read_source)

    def getsource(target):
        function = getattr(target, "__func__", target)
        is_of_library = str(getattr(function, "__module__", "")).startswith("axelrod.")
        return (read_source_once if is_of_library else read_source)(function)

    inspect.getsource = getsource
