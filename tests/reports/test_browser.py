"""Opens reports and the documentation in headless Chromium, without a network."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from rllib_reciprocator.cli.main import app

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.processes, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]

OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--virtual-time-budget=10000",
    "--enable-logging=stderr",
    "--v=0",
)
# Stores the sizes of plots and images as they are shown, in an attribute of the page.
PROBE = """<script>
window.addEventListener("load", () => setTimeout(() => {
  const elements = [...document.querySelectorAll("svg.main-svg, canvas, img")].map(element => {
    const box = element.getBoundingClientRect();
    const shapes = element.querySelectorAll("path, text").length;
    return {tag: element.localName, width: box.width, height: box.height, shapes, pixels: element.naturalWidth};
  });
  document.documentElement.dataset.elements = JSON.stringify(elements);
}, 3000));
</script>"""


class Page(NamedTuple):
    """Page that Chromium shows after its scripts have run.

    Attributes:
        elements: Tag, size, number of shapes (SVG) and width of the file (images) of each plot and image.
        text: Text outside scripts and styles, in pieces.
        console: Messages in the JavaScript console, including errors that no script caught.
        requests: URLs that the page requested over a network.
    """

    elements: list[dict]
    text: list[str]
    console: list[str]
    requests: list[str]


class _Parser(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.text, self.elements, self._hidden = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self._hidden = tag in ("script", "style")
        if tag == "html":
            self.elements = json.loads(dict(attributes)["data-elements"])

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden and data.strip():
            self.text.append(data.strip())


def network_requests(log):
    """Returns the URLs of a NetLog that a page requested over a network. The browser's own requests have no origin."""
    start = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    details = [event["params"] for event in log["events"] if event["type"] == start and "params" in event]
    urls = [detail["url"] for detail in details if "url" in detail and detail["initiator"] != "not an origin"]
    return [url for url in urls if not url.startswith(("file:", "data:", "blob:", "about:"))]


def open_page(path, folder, query=""):
    """Opens a copy of an HTML file that also measures its plots and images."""
    copy = path.with_name(f"probe_{path.name}")
    head, body, tail = path.read_text().rpartition("</body>")
    copy.write_text(head + PROBE + body + tail)
    log = folder / "requests.json"
    try:
        process = subprocess.run(
            [
                CHROMIUM,
                *OPTIONS,
                f"--user-data-dir={folder / 'profile'}",
                f"--log-net-log={log}",
                "--dump-dom",
                copy.as_uri() + query,
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
    finally:
        copy.unlink()
    parser = _Parser(process.stdout)
    console = re.findall(r":CONSOLE[:(]\d+\)?\] (.*)", process.stderr)
    return Page(parser.elements, parser.text, console, network_requests(json.loads(log.read_text())))


def test_errors_and_requests_of_a_page_are_detected(tmp_path):
    (tmp_path / "page.html").write_text(
        '<!DOCTYPE html><html><body><img src="no_file.png"><svg class="main-svg" height="0"></svg>'
        '<img src="https://example.invalid/image.png"><script>missing_function()</script></body></html>'
    )
    page = open_page(tmp_path / "page.html", tmp_path)
    assert [(element["tag"], element.get("pixels"), element["shapes"]) for element in page.elements] == [
        ("img", 0, 0),
        ("svg", None, 0),
        ("img", 0, 0),
    ]
    assert page.elements[1]["height"] == 0
    assert len(page.console) == 1
    assert "missing_function is not defined" in page.console[0]
    assert page.requests == ["https://example.invalid/image.png"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Writes the report of a short run of a tuned example."""
    folder = tmp_path_factory.mktemp("report")
    stop = json.dumps({"training_iteration": 2})
    options = ["--stop", stop, "--storage-path", str(folder), "--ray-address", "local"]
    result = CliRunner().invoke(app, ["example", "run", "reciprocator_ipd", *options])
    assert result.exit_code == 0, result.output
    command = ["report", str(folder / "reciprocator-ipd"), "--out", str(folder / "report.html")]
    assert CliRunner().invoke(app, command).exit_code == 0
    return folder / "report.html"


def test_plots_of_a_report_are_drawn(report, tmp_path):
    page = open_page(report, tmp_path)
    assert page.console == []
    assert page.requests == []
    plots = [element for element in page.elements if element["tag"] in ("svg", "canvas")]
    assert len(plots) >= 5
    assert all(element["width"] > 100 and element["height"] > 100 for element in plots)
    assert sum(element["shapes"] for element in plots) > 50
    animations = [element for element in page.elements if element["tag"] == "img"]
    assert len(animations) == 1
    assert animations[0]["pixels"] > 100
    assert {"cooperation rate", "return", "collective return", "influence", "entropy"} <= set(page.text)
    assert {"start", "CC", "CD", "DC", "DD", "P(cooperate)"} <= set(page.text)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Builds the documentation, as ``make docs`` does."""
    folder = tmp_path_factory.mktemp("site")
    mkdocs = shutil.which("mkdocs", path=str(Path(sys.executable).parent))
    result = subprocess.run(
        [mkdocs, "build", "--strict", "--site-dir", str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("name", ["index", "method", "games", "games/cleanup", "analysis", "settings", "results"])
def test_images_of_the_documentation_are_shown(site, tmp_path, name):
    page = open_page(site / f"{name}.html", tmp_path)
    assert page.console == []
    assert page.requests == []
    images = [element for element in page.elements if element["tag"] == "img"]
    assert len(images) == (site / f"{name}.html").read_text().count("<img ")
    assert all(image["pixels"] > 0 and image["width"] > 0 and image["height"] > 0 for image in images)


def test_search_of_the_documentation_works_without_a_network(site, tmp_path):
    page = open_page(site / "index.html", tmp_path, query="?q=reciprocity")
    assert page.console == []
    assert page.requests == []
    assert any(re.fullmatch(r"\d+ matching documents", text) for text in page.text)
