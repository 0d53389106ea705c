"""MkDocs hooks: the page of all settings from the code, and equations as MathML, which browsers draw by themselves."""

import html
import re
from io import BytesIO
from pathlib import Path

import torch
from latex2mathml.converter import convert
from mkdocs.structure.files import File
from PIL import Image

import social_dilemmas
from rllib_reciprocator.cli import tuned_examples
from rllib_reciprocator.experiments.settings_page import settings_page

# Pictures of games that have several maps: name and settings of each.
VIEWS = {
    "cleanup_v0": [
        ("cleanup_small", {}),
        ("cleanup_medium", {"map": "medium", "num_agents": 3}),
        ("cleanup_full", {"map": "full"}),
        ("cleanup_melting_pot", {"map": "melting_pot"}),
    ],
    "harvest_v0": [
        ("harvest_small", {}),
        ("harvest_full", {"map": "full"}),
        ("harvest_melting_pot", {"map": "melting_pot"}),
    ],
    "matrix_grid_v0": [("matrix_grid_small", {}), ("matrix_grid_melting_pot", {"map": "melting_pot"})],
    "escape_room_v0": [("escape_room", {"num_agents": 5, "num_levers": 3})],
}
USE = """```python
import social_dilemmas

env = social_dilemmas.parallel_env("{game_id}", render_mode="rgb_array")  # PettingZoo
games = social_dilemmas.make("{game_id}", 256)  # 256 copies, as tensors
```"""
LOADS = re.compile(
    r'<(?:script|img|iframe|source)[^>]+src="(?:https?:)?//|<link[^>]+rel="stylesheet"[^>]+href="(?:https?:)?//'
)
# What lets the search work in pages opened from a disk; Material would load it from a network.
SEARCH_SHIM = "https://unpkg.com/iframe-worker/shim"
# Sphinx writes these in front of names; here they only stand in the way.
ROLE = re.compile(r":(?:class|func|meth):(?=<code>)")
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files, config):
    """Adds the page of all settings, and pages and pictures of the games."""
    pages = {"settings.md": settings_page(), **game_pages()}
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def game_pages():
    """A gallery, and a page a class of games: pictures, the games of that class, and what its docstring says."""
    pages, by_module = {}, {}
    gallery = ["# Games", "Each is stepped in thousands of copies at once, and is a PettingZoo environment."]
    for game_id in social_dilemmas.game_ids():
        module = social_dilemmas.spec(game_id).entry_point.partition(":")[0]
        by_module.setdefault(module, []).append(game_id)
    for module, ids in by_module.items():
        page = module.rpartition(".")[2]
        parts = [f"# {page.replace('_', ' ').capitalize()}"]
        for game_id in ids:
            views = VIEWS.get(game_id, [(game_id, {})])
            pages |= {f"images/games/{name}.png": picture(game_id, settings) for name, settings in views}
            spec = social_dilemmas.spec(game_id)
            parts += [f"## `{game_id}`", spec.summary, *(f"![{name}](../images/games/{name}.png)" for name, _ in views)]
            first = views[0][0]
            gallery += [f"## [`{game_id}`](games/{page}.md)", spec.summary, f"![{first}](images/games/{first}.png)"]
        parts.append(USE.format(game_id=ids[0]))
        classes = dict.fromkeys(social_dilemmas.spec(game_id).entry_point.replace(":", ".") for game_id in ids)
        parts += [f"::: {name}\n    options: {{members: false}}" for name in classes]
        pages[f"games/{page}.md"] = "\n\n".join(parts) + "\n"
    return {**pages, "games.md": "\n\n".join(gallery) + "\n"}


def picture(game_id, settings):
    """A game after some steps of random play, as a PNG."""
    game = social_dilemmas.make(game_id, **settings)
    game.reset(seed=1)
    draws = torch.Generator().manual_seed(1)
    for _ in range(min(12, game.horizon - 1)):
        game.step(torch.randint(int(game.action_space.n), (1, game.num_agents), generator=draws))
    written = BytesIO()
    Image.fromarray(game.render_rgb()).save(written, "PNG")
    return written.getvalue()


def on_page_markdown(markdown, page, config, files):
    """Puts what the tuned examples promise in the place of its mark."""
    return markdown.replace("{{ examples }}", examples_table())


def examples_table():
    """Name, first line and expectation of every tuned example, from the headers of their files."""
    rows = ["| example | | what to expect |", "|---|---|---|"]
    for name in tuned_examples.names():
        header = tuned_examples.text(name).partition("\n#\n")
        expect = re.search(r"# Expect:  (.*?)\n# Minutes", header[2], re.DOTALL)[1]
        rows.append(f"| `{name}` | {tuned_examples.summary(name)} | {' '.join(expect.replace('#', '').split())} |")
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
