"""Versions of this package in checkpoints."""

from __future__ import annotations

import json
import logging
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.version import Version
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from rllib_reciprocator.utils.checkpoints.folders import METADATA

logger = logging.getLogger(__name__)

# Key in METADATA of the version of this package that wrote the checkpoint.
VERSION = "rllib_reciprocator_version"


def package_version() -> str | None:
    """Returns the version of this package; None if it is not installed."""
    try:
        return version("rllib_reciprocator")
    except PackageNotFoundError:
        return None


class VersionedCheckpoints(Algorithm):
    """Algorithm mixin that writes the version of this package into checkpoints."""

    @override(Algorithm)
    def get_metadata(self) -> dict[str, Any]:
        """Returns the content of the file ``METADATA``."""
        return {**super().get_metadata(), VERSION: package_version()}


@cache
def warn_of_later_version(checkpoint: Path) -> None:
    """Logs a warning, once per checkpoint, if a checkpoint was written by a later version of this package.

    Args:
        checkpoint: The checkpoint's folder.
    """
    try:
        checkpoint_version = json.loads((checkpoint / METADATA).read_text(encoding="utf-8")).get(VERSION)
        installed_version = package_version()
        is_later = checkpoint_version and installed_version and Version(checkpoint_version) > Version(installed_version)
    except (OSError, ValueError, AttributeError, TypeError):  # missing or invalid metadata
        return
    if is_later:
        logger.warning(
            "%s: was written by rllib_reciprocator %s, which is later than the installed version %s; settings of later"
            " versions may be ignored or fail",
            checkpoint,
            checkpoint_version,
            installed_version,
        )
