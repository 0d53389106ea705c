"""Code, documentation and settings files use the words of docs/glossary.md."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RULES = {
    r'"""(What|Whether|Of|Who|As|That|How|By|If)\b(?! True| False)': "a docstring starts with a verb or a noun",
    r"\b(tells? (of|what|how|which)|told|goes by|moved by|afresh)\b": "use logged, returned, inputs, reset",
    r"\b(whoever|nobody|somebody|everybody|anything at all)\b": "use agents that .., no agent, any agent",
    r"\b(of|for|by|to|with) (who|whom|whoever) (is|are|was|has|have|learns?|plays?|gives?|sees?)\b": (
        "a relative clause needs a noun: agents that .."
    ),
    r"\b(less|minus) (its|their) (own )?mean\b|\bso many\b|\bbeside(?!s)\b": "use minus the mean, N, with",
    r"^\s*(told|found|each|own|one|other|others|taken|put|given|seen|kept|made|brought|mine)\s*(:[^=]*)?=[^=]": (
        "name a variable after the thing that it holds"
    ),
    r"\bfor (each|own|one|other|it) in\b": "name a loop variable after the thing that it holds",
    r"\b(MOST|LEAST)_": "use MAX_ and MIN_",
}
# Lines in which these words are data: keys, columns and quotations.
DATA = (
    'config["told"]',
    '"told"',
    "``told``",
    "made=datetime",
)
SUFFIXES = (".py", ".md", ".yaml", ".yml", ".toml", ".html")
SKIPPED = ("CHANGELOG.md", "tests/data/", "tests/test_words.py")


def lines():
    """Yields path, line number and text of all lines under version control."""
    process = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if process.returncode:
        pytest.skip("not a git checkout")
    for path in process.stdout.splitlines():
        if path.endswith(SUFFIXES) and not path.startswith(SKIPPED):
            text = (ROOT / path).read_text()
            yield from ((path, number, line) for number, line in enumerate(text.splitlines(), 1))


def test_no_line_has_a_word_that_the_glossary_replaces():
    problems = [
        f"{path}:{number}: {reason}: {line.strip()[:100]}"
        for path, number, line in lines()
        for pattern, reason in RULES.items()
        if re.search(pattern, line) and not any(word in line for word in DATA)
    ]
    assert not problems, "\n".join([f"{len(problems)} lines", *problems[:40]])


@pytest.mark.parametrize(
    "line",
    [
        '    """Whether the runner has logged anything."""',
        "    found = compute(values)",
        "# What is told to the others",
        "for each in agents:",
        "MOST_AGENTS = 3",
        "advantages less their mean",
    ],
)
def test_the_rules_find_such_lines(line):
    assert any(re.search(pattern, line) for pattern in RULES)


def test_the_rules_leave_plain_sentences_alone():
    for line in (
        '    """Returns the mean of other agents."""',
        "gradients = autograd.grad(loss)",
        '"""If True, logs."""',
    ):
        assert not any(re.search(pattern, line) for pattern in RULES)
