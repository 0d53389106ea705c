"""Plants small faults in the sources, one at a time, and runs the tests that should detect them.

    python tests/mutants.py list --count 60 --seed 20261128          # the sampled faults
    python tests/mutants.py run --count 60 --seed 20261128 --out mutants.json

Faults are sampled with a fixed seed: a function uniformly, then an applicable operator, then a position. The operators
are sign, comparison, off by one, dropped factor, dropped mask, swapped arguments and wrong axis.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rllib_reciprocator"
FOLDERS = ("engine", "algorithms", "intrinsic", "players", "evaluation")
# Rendering computes no results.
SKIPPED = {"video.py", "rendering.py", "printing.py"}
# Tests by folder, as patterns, in order of the likelihood to fail.
TESTS = {
    "engine": ["engine", "algorithms", "evaluation"],
    "algorithms/advantage_alignment": ["algorithms/test_advantage_alignment*.py", "engine/test_masks*.py"],
    "algorithms/coala": ["algorithms/test_coala*.py", "algorithms/test_update_numbers.py", "evaluation"],
    "algorithms/shaper": ["algorithms/test_shaper*.py", "algorithms/test_update_numbers.py"],
    "algorithms/lio": ["algorithms/test_lio*.py", "engine/test_masks*.py"],
    "algorithms": ["algorithms", "engine"],
    "intrinsic/incentives": ["algorithms/test_lio*.py", "engine/test_masks*.py", "evaluation"],
    "intrinsic/reciprocity": ["intrinsic", "engine/test_env_runner*.py", "rllib_episodes/test_recipro*.py"],
    "intrinsic": ["intrinsic", "engine/test_masks*.py", "algorithms/test_reciprocator*.py"],
    "players": ["players", "algorithms/test_update_numbers.py", "evaluation", "engine"],
    "evaluation": ["evaluation", "reports"],
}
NO_NUMBERS = (ast.Constant, ast.JoinedStr, ast.List, ast.Tuple)
COMPARISONS = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="}
AXES = {
    "sum",
    "mean",
    "any",
    "all",
    "cat",
    "stack",
    "flatten",
    "unflatten",
    "transpose",
    "repeat_interleave",
    "amax",
    "cumsum",
    "unbind",
    "chunk",
    "softmax",
    "std",
    "argmax",
    "unsqueeze",
}


# Functions whose two arguments cannot be swapped, or whose order does not matter.
SYMMETRIC = {
    "isinstance",
    "issubclass",
    "getattr",
    "hasattr",
    "setattr",
    "range",
    "zip",
    "transpose",
    "Field",
    "min",
    "max",
    "reshape",
    "map_structure",
    "get",
    "fromkeys",
    "default",
    "maximum",
    "minimum",
    "logical_and",
    "partial",
}


def _is_value(node: ast.AST) -> bool:
    """Returns True for names and attributes, which may have the right type when swapped with another argument."""
    return isinstance(node, ast.Name | ast.Attribute)


@dataclass
class Mutant:
    """Fault that replaces the text between two offsets of a file."""

    path: str
    function: str
    line: int
    operator: str
    start: int
    end: int
    old: str
    new: str


class Offsets:
    """Converter from lines and columns of AST nodes to offsets in the source."""

    def __init__(self, source: str) -> None:
        self.source, self.starts = source, [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def span(self, node: ast.AST) -> tuple[int, int]:
        lines = self.source.splitlines()

        def at(line: int, column: int) -> int:
            return self.starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

        return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]


def faults(node: ast.AST, offsets: Offsets) -> Iterator[tuple[str, ast.AST, str]]:
    """Yields operator, node and new text of all faults at one node."""
    text = lambda part: offsets.source[slice(*offsets.span(part))]  # noqa: E731
    if isinstance(node, ast.BinOp):
        left, right = text(node.left), text(node.right)
        if isinstance(node.op, ast.Sub):
            yield "sign", node, f"({left} + {right})"
        elif isinstance(node.op, ast.Add) and not isinstance(
            node.left, ast.Constant | ast.JoinedStr | ast.List | ast.Tuple
        ):
            yield "sign", node, f"({left} - {right})"
        elif isinstance(node.op, ast.Mult):
            yield "dropped factor", node, f"({left})"
            yield "dropped factor", node, f"({right})"
        elif isinstance(node.op, ast.Div):
            yield "dropped factor", node, f"({left})"
        elif isinstance(node.op, ast.BitAnd):
            yield "dropped mask", node, f"({left})"
            yield "dropped mask", node, f"({right})"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Invert):
        if not isinstance(node.operand, ast.Constant):
            yield "sign", node, f"({text(node.operand)})"
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        new = COMPARISONS[type(node.ops[0])]
        yield "comparison", node, f"({text(node.left)} {new} {text(node.comparators[0])})"
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield "off by one", node, str(node.value + 1)
    elif isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        positional = [part for part in node.args if not isinstance(part, ast.Starred)]
        if name == "where" and len(node.args) == 3:
            yield "dropped mask", node, f"({text(node.args[1])})"
        if len(positional) == len(node.args) == 2 and name not in SYMMETRIC and all(map(_is_value, positional)):
            first, second = map(text, node.args)
            rest = [f"{keyword.arg}={text(keyword.value)}" for keyword in node.keywords if keyword.arg]
            if len(rest) == len(node.keywords):
                yield "swapped arguments", node, f"{text(node.func)}({', '.join([second, first, *rest])})"
        for part in [*node.args, *(keyword.value for keyword in node.keywords)]:
            if isinstance(part, ast.Name) and "mask" in part.id:
                yield "dropped mask", part, "None"
        if name in AXES:
            for part in node.args:
                if isinstance(part, ast.Constant) and type(part.value) is int:
                    yield "wrong axis", part, str(1 - part.value if part.value in (0, 1) else part.value - 1)


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yields the qualified names and nodes of all functions of a module."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield f"{prefix}{node.name}", node


def body_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """Yields the nodes of a function's body, without annotations, docstring, error messages and logging."""
    stack = list(function.body)  # type: ignore[attr-defined]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.AnnAssign | ast.Import | ast.ImportFrom):
            if isinstance(node, ast.AnnAssign) and node.value is not None:
                stack.append(node.value)
            continue
        yield node
        stack += list(ast.iter_child_nodes(node))


def sample_mutants(count: int, seed: int) -> list[Mutant]:
    """Samples faults.

    Args:
        count: Number of faults.
        seed: Seed of the sampling.
    """
    pool: list[list[Mutant]] = []
    for folder in FOLDERS:
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            if path.name in SKIPPED:
                continue
            source = path.read_text()
            offsets = Offsets(source)
            for name, function in functions(ast.parse(source)):
                candidates = []
                for node in body_nodes(function):
                    for operator, part, new in faults(node, offsets):
                        start, end = offsets.span(part)
                        relative = str(path.relative_to(ROOT))
                        candidates.append(
                            Mutant(relative, name, part.lineno, operator, start, end, source[start:end], new)
                        )
                if candidates:
                    pool.append(candidates)
    rng = random.Random(seed)
    pool_indices = rng.sample(range(len(pool)), min(count, len(pool)))
    mutants = []
    for k in pool_indices:
        operator = rng.choice(sorted({mutant.operator for mutant in pool[k]}))
        choices = [mutant for mutant in pool[k] if mutant.operator == operator]
        mutants.append(rng.choice(sorted(choices, key=lambda mutant: (mutant.start, mutant.new))))
    return mutants


def tests_of(path: str) -> list[str]:
    """Returns the paths of the tests for a source file."""
    relative = path.removeprefix("rllib_reciprocator/")
    keys = [key for key in TESTS if relative.startswith(f"{key}/")]
    tests = [sorted((ROOT / "tests").glob(pattern)) for pattern in TESTS[max(keys, key=len)]]
    return [str(test.relative_to(ROOT)) for paths in tests for test in paths]


def run(mutant: Mutant, timeout: float) -> tuple[str, str]:
    """Runs the tests on a fault; returns ``found``, ``survived`` or ``timeout``, and the first test that fails."""
    path = ROOT / mutant.path
    source = path.read_text()
    try:
        path.write_text(source[: mutant.start] + mutant.new + source[mutant.end :])
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            *tests_of(mutant.path),
        ]
        try:
            result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            return "timeout", ""
        if result.returncode not in (0, 1, 2):
            raise RuntimeError(f"pytest ended with {result.returncode}: {result.stdout[-300:]}{result.stderr[-300:]}")
        failures = [line for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return ("survived", "") if result.returncode == 0 else ("found", failures[0][:200] if failures else "error")
    finally:
        path.write_text(source)


def main() -> None:
    """Lists or runs the faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("list", "run"))
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=20261128)
    parser.add_argument("--timeout", type=float, default=900.0)
    parser.add_argument("--out", default="mutants.json")
    parser.add_argument("--part", default="0/1", help="K/N: runs every N-th fault, starting at the K-th")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    results = []
    for number, mutant in enumerate(sample_mutants(options.count, options.seed)):
        if number % parts != part:
            continue
        print(f"{number}: {mutant.path}:{mutant.line} {mutant.function} [{mutant.operator}]", flush=True)
        print(f"    {mutant.old!r} -> {mutant.new!r}", flush=True)
        if options.action == "run":
            start_time = time.monotonic()
            verdict, test = run(mutant, options.timeout)
            print(f"    {verdict} {test} ({time.monotonic() - start_time:.0f} s)", flush=True)
            results.append({"number": number, **asdict(mutant), "verdict": verdict, "test": test})
            Path(options.out).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
