import re
from pathlib import Path

import pytest

from rllib_reciprocator.experiments.schema import parse, typed
from rllib_reciprocator.experiments.validation import check

README = Path("README.md").read_text()


PAGES = {page.name: page.read_text() for page in Path("docs").glob("*.md")}


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("code", blocks("python"))
def test_python_in_the_readme_runs(ray_cluster, code):
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_in_the_readme_is_valid(text):
    text = text.replace("checkpoint/PATH", "scripted/random")
    for name, entry in parse(text, "README.md").items():
        check(typed(name, entry, "README.md"), "README.md")


@pytest.mark.parametrize("page", PAGES)
def test_experiments_in_the_documentation_are_valid(page):
    names = {"module/my_package.my_module:MyModule": "module/tests.multi_agent_envs:TinyModule"}
    for text in blocks("yaml", PAGES[page]):
        for name, fake in names.items():
            text = text.replace(name, fake)
        entries = parse(text, page)
        for name, entry in entries.items():
            if isinstance(entry, dict) and "run" in entry:
                check(typed(name, entry, page), page)


def test_files_that_the_readme_names_are_there():
    for path in re.findall(r"\]\((docs/[^)]+)\)", README) + re.findall(r"tuned_examples/\w+\.yaml", README):
        assert Path(path).is_file(), path
