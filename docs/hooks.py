"""MkDocs hooks: the page of all settings from the code, and equations as MathML, which browsers draw by themselves."""

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

from rllib_reciprocator.cli import examples
from rllib_reciprocator.experiments.settings_page import settings_page

LOADS = re.compile(
    r'<(?:script|img|iframe|source)[^>]+src="(?:https?:)?//|<link[^>]+rel="stylesheet"[^>]+href="(?:https?:)?//'
)
# What lets the search work in pages opened from a disk; Material would load it from a network.
SEARCH_SHIM = "https://unpkg.com/iframe-worker/shim"
# Sphinx writes these in front of names; here they only stand in the way.
ROLE = re.compile(r":(?:class|func|meth):(?=<code>)")
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files, config):
    """Adds the page of all settings."""
    files.append(File.generated(config, "settings.md", content=settings_page()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Puts what the tuned examples promise in the place of its mark."""
    return markdown.replace("{{ examples }}", examples_table())


def examples_table():
    """Name, first line and expectation of every tuned example, from the headers of their files."""
    rows = ["| example | | what to expect |", "|---|---|---|"]
    for name in examples.names():
        header = examples.text(name).partition("\n#\n")
        expect = re.search(r"# Expect:  (.*?)\n# Minutes", header[2], re.DOTALL)[1]
        rows.append(f"| `{name}` | {examples.summary(name)} | {' '.join(expect.replace('#', '').split())} |")
    return "\n".join(rows)


def on_page_content(content, page, config, files):
    """Turns equations into MathML."""
    content = ROLE.sub("", content).replace("<p>.. code-block:: python</p>\n", "")
    return EQUATION.sub(
        lambda found: convert(html.unescape(found[3]), display="block" if found[2] == "[" else "inline"), content
    )


def on_post_build(config):
    """A site that looks up nothing, in its search neither: fails if a page would load anything from elsewhere."""
    for page in Path(config["site_dir"]).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        depth = len(page.relative_to(config["site_dir"]).parts) - 1
        text = text.replace(SEARCH_SHIM, "../" * depth + "assets/iframe-worker.js")
        page.write_text(text, encoding="utf-8")
        if found := LOADS.search(text):
            raise SystemExit(f"{page}: loads from elsewhere: {found[0]}")
