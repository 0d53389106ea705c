import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Folders of the repository, and the packages in the wheel that have their files.
PACKAGES = {
    "rllib_reciprocator/": "rllib_reciprocator/",
    "envs/social_dilemmas/": "social_dilemmas/",
    "tuned_examples/": "rllib_reciprocator/tuned_examples/",
}


def metadata():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_folder_with_modules_is_a_package():
    """Checks that setuptools finds it: ``find_packages`` ignores folders without an ``__init__.py``."""
    modules = [*(ROOT / "rllib_reciprocator").rglob("*.py"), *(ROOT / "envs").rglob("*.py")]
    folders = {module.parent for module in modules}
    assert len(folders) > 10
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_every_dependency_is_pinned():
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {line.split("==")[0].lower() for line in constraints if "==" in line}
    options = metadata()
    requirements = options["options"]["install_requires"] + options["options.extras_require"]["dev"]
    names = {re.split(r"[\[ <>=]", line.strip())[0].lower() for line in requirements.splitlines() if line.strip()}
    assert names - pins == set()


def test_version_is_the_same_everywhere():
    version = metadata()["metadata"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()


@pytest.fixture(scope="module")
def tracked_files():
    """Returns the paths of all files under version control."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    process = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {path for path in process.stdout.splitlines() if (ROOT / path).exists()}


@pytest.fixture(scope="module")
def distributions(tracked_files, tmp_path_factory):
    """Builds both distributions from a copy of the files under version control, and returns their folder.

    The wheel is built from the source distribution.
    """
    source = tmp_path_factory.mktemp("source")
    for path in tracked_files:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, source / path)
    result = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation"], cwd=source, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return source / "dist"


@pytest.fixture(scope="module")
def unpacked(distributions, tmp_path_factory):
    """Unpacks the source distribution and returns the folder of its files."""
    (archive,) = distributions.glob("*.tar.gz")
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (files,) = folder.iterdir()
    return files


@pytest.mark.processes
def test_source_distribution_has_all_files_under_version_control(unpacked, tracked_files):
    paths = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    created_by_setuptools = {path for path in paths if path == "PKG-INFO" or path.startswith("rllib_reciprocator.egg-")}
    assert tracked_files - paths == set()
    assert paths - tracked_files == created_by_setuptools


@pytest.mark.processes
def test_wheel_has_all_files_of_the_packages(distributions, tracked_files):
    expected = {
        package + path.removeprefix(folder)
        for folder, package in PACKAGES.items()
        for path in tracked_files
        if path.startswith(folder)
    }
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        paths = {path for path in archive.namelist() if ".dist-info/" not in path}
    assert paths == expected


@pytest.mark.processes
def test_tests_run_from_the_source_distribution(unpacked):
    files = ["tests/envs/test_matrix_game.py", "tests/intrinsic/test_shared_reward.py", "tests/test_contributing.py"]
    environment = os.environ | {"PYTHONPATH": f"{unpacked}{os.pathsep}{unpacked / 'envs'}"}
    # Variables of an outer pytest process would also apply to this one.
    environment = {name: value for name, value in environment.items() if not name.startswith(("PYTEST_", "SKIPPED_"))}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=unpacked,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"\d+ passed", result.stdout)
