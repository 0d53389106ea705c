import configparser
import re
from pathlib import Path


def metadata():
    parser = configparser.ConfigParser()
    parser.read("setup.cfg")
    return parser


def test_every_package_is_installed():
    installed_packages = set(metadata()["options"]["packages"].split())
    package_folders = {".".join(file.parent.parts) for file in Path("rllib_reciprocator").rglob("__init__.py")}
    assert package_folders | {"social_dilemmas", "rllib_reciprocator.tuned_examples"} == installed_packages


def test_every_dependency_is_pinned():
    pins = {line.split("==")[0].lower() for line in Path("constraints.txt").read_text().splitlines() if "==" in line}
    options = metadata()
    requirements = options["options"]["install_requires"] + options["options.extras_require"]["dev"]
    names = {re.split(r"[\[ <>=]", line.strip())[0].lower() for line in requirements.splitlines() if line.strip()}
    assert names - pins == set()


def test_version_is_the_same_everywhere():
    version = metadata()["metadata"]["version"]
    assert f"\nversion: {version}\n" in Path("CITATION.cff").read_text()
    assert f"\n## {version}\n" in Path("CHANGELOG.md").read_text()
