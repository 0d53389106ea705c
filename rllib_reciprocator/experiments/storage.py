"""Locations of results: paths and URIs of experiments."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pyarrow.fs import FileSystem

from rllib_reciprocator.experiments.schema import Experiment
from rllib_reciprocator.utils.errors import UserError

# Minimum free space for results, in bytes.
_MIN_FREE_BYTES = 2**20


def storage_root(experiment: Experiment) -> str:
    """Returns the parent folder of all experiments: an absolute path, or a URI such as ``s3://bucket/results``."""
    root = experiment.storage_path or os.environ.get("RAY_AIR_LOCAL_CACHE_DIR") or "~/ray_results"
    return root.rstrip("/") if "://" in root else str(Path(root).expanduser().resolve())


def storage_of(experiment: Experiment) -> str:
    """Returns the folder of an experiment, a path or a URI."""
    return f"{storage_root(experiment)}/{experiment.name}"


def check_storage(experiment: Experiment) -> None:
    """Checks that results can be written, as far as this is possible without network access.

    Raises:
        UserError: If results cannot be written.
    """
    root = storage_root(experiment)
    try:
        FileSystem.from_uri(root)
        if "://" not in root:
            Path(root).mkdir(parents=True, exist_ok=True)
            if not os.access(root, os.W_OK | os.X_OK):
                raise PermissionError("no write permission")
            with tempfile.TemporaryFile(dir=root) as file:  # fails if the disk is full
                file.write(bytes(_MIN_FREE_BYTES))
    except (OSError, ValueError) as error:
        raise UserError(f"--storage-path {root}: results cannot be written there ({error})") from None
