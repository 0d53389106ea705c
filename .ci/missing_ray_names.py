"""Lists the private names of Ray that this package uses and the installed Ray does not have, in Markdown.

Reads the names from the source of ``ray_internals.py``, which cannot be imported if Ray has lost one that it imports.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import ray

SOURCE = Path(__file__).parents[1] / "rllib_reciprocator" / "utils" / "ray_internals.py"


def used_names() -> Iterator[tuple[str, str]]:
    """Yields each module of Ray and a name in it, first the imported names and then the overridden or read ones."""
    for node in ast.parse(SOURCE.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ray."):
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "PRIVATE_NAMES" and node.value:
            for module, names in ast.literal_eval(node.value).items():
                yield from ((module, name) for name in names)


def has_name(module: str, name: str) -> bool:
    """Returns True if Ray has the module and the name occurs in its source."""
    try:
        return re.search(rf"\b{name}\b", inspect.getsource(import_module(module))) is not None
    except ImportError:
        return False


def main() -> None:
    """Prints the version of Ray and the missing names."""
    missing = [f"- `{module}`: `{name}`" for module, name in used_names() if not has_name(module, name)]
    print(f"### Private names that Ray {ray.__version__} does not have\n")
    print("\n".join(missing or ["None."]))


if __name__ == "__main__":
    main()
