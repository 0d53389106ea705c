"""Experiments in the format of RLlib's YAML files, with types, and validated before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rllib_reciprocator.experiments.search import (
    distribution,
    ends,
    grid_size,
    is_distribution,
    scheduler,
    searcher,
    with_distributions,
)
from rllib_reciprocator.experiments.yaml_text import parse
from rllib_reciprocator.results.metric_checks import check_stop, resolve_metric_alias
from rllib_reciprocator.utils.errors import UserError, explain, unknown, user_path

# Valid names of an experiment's folder: a single folder, on any file system and object store.
_NAME = re.compile(r"\w[\w .,=+@-]*")
LONGEST_NAME = 100
LARGEST_FILE = 1_000_000
MAX_TRIALS = 10_000


class Experiment(BaseModel):
    """Settings of an experiment, one entry of a YAML file.

    Attributes:
        name: Name of the experiment's folder under the storage path.
        run: Name of the algorithm, a name registered with ``ray.tune``, or ``MODULE:CLASS``.
        env: Id of the environment.
        stop: Stopping criteria, metric -> value to reach. A trial ends when it reaches the first of them.
        config: Settings of the algorithm; a value may be ``{grid_search: [..]}``.
        num_samples: Number of times each setting is run, or sampled from a distribution (``{tune: NAME, args: [..]}``).
        seeds: Number of seeds that each setting is run with; the seeds are 1 to this number.
        metric: Metric that schedulers and searchers use, a path into results.
        mode: If ``max``, the metric is maximized; if ``min``, it is minimized.
        scheduler: Tune scheduler that stops or changes trials, e.g. ``{type: asha, ..}``.
        search_alg: Tune searcher that proposes settings, e.g. ``{type: optuna}``.
        checkpoint_freq: Number of iterations between checkpoints; 0 for no periodic checkpoints.
        checkpoint_at_end: If True, a checkpoint is saved at the end of each trial.
        keep_checkpoints_num: Number of checkpoints to keep; None keeps all.
        max_failures: Number of times a failed trial is restarted from its last checkpoint; -1 for no limit.
        loggers: Loggers in addition to TensorBoard; their packages must be installed.
        storage_path: Path or URI for results, e.g. ``s3://bucket/results``; Ray's default if None.
        restore: Checkpoint to start from.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1)]
    run: str
    env: str | None = None
    stop: dict[str, float | int] = {}
    config: dict[str, Any] = {}
    num_samples: Annotated[int, Field(ge=1, le=MAX_TRIALS)] = 1
    seeds: Annotated[int, Field(ge=1, le=MAX_TRIALS)] | None = None
    metric: str | None = None
    mode: Literal["max", "min"] | None = None
    scheduler: dict[str, Any] | None = None
    search_alg: dict[str, Any] | None = None
    checkpoint_freq: Annotated[int, Field(ge=0)] = 0
    checkpoint_at_end: bool = True
    keep_checkpoints_num: Annotated[int, Field(ge=1)] | None = None
    max_failures: Annotated[int, Field(ge=-1)] = 0
    loggers: list[Literal["wandb", "mlflow"]] = []
    storage_path: str | None = None
    restore: str | None = None


def read_file(path: str | Path) -> list[Experiment]:
    """Reads the experiments of a YAML file.

    Raises:
        UserError: If the file cannot be read or the keys of an experiment are invalid. Settings of the algorithm are
            validated by :func:`rllib_reciprocator.experiments.validation.check`.
    """
    file = user_path(str(path), "file")
    try:
        if file.is_file() and file.stat().st_size > LARGEST_FILE:
            raise UserError(f"{path}: is larger than an experiment file may be ({LARGEST_FILE} bytes)")
        if file.exists() and not file.is_file():
            raise UserError(f"{path}: cannot be read (it is not a file)")
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    entries = parse(text, str(path))
    if not entries:
        raise UserError(f"{path}: contains no experiment")
    return [typed(str(name), entry, str(path)) for name, entry in entries.items()]


def typed(name: str, entry: object, where: str) -> Experiment:
    """Builds an experiment from a mapping and validates its keys.

    Raises:
        UserError: If a key is invalid. The message has the file, the path of the key and the problem.
    """
    _check_name(name, where)
    if not isinstance(entry, dict):
        raise UserError(f"{where}: {name}: must be a mapping with run, env, stop and config")
    known_keys = set(Experiment.model_fields) - {"name"}
    for key in entry:
        if key not in known_keys:
            raise UserError(f"{where}: {name}.{key}: {unknown(key, known_keys)}")
    try:
        experiment = Experiment.model_validate({**entry, "name": name})
    except ValidationError as error:
        key, problem = explain(error, known_keys)
        raise UserError(f"{where}: {name}.{key}: {problem}") from None
    stop = {resolve_metric_alias(metric, f"{where}: {name}.stop"): value for metric, value in experiment.stop.items()}
    check_stop(stop, f"{where}: {name}.stop")
    metric = experiment.metric and resolve_metric_alias(experiment.metric, f"{where}: {name}.metric")
    experiment = experiment.model_copy(update={"stop": stop, "metric": metric})
    if experiment.storage_path is not None and "://" not in experiment.storage_path:
        user_path(experiment.storage_path, f"{where}: {name}.storage_path")
    if experiment.restore is not None:
        user_path(experiment.restore, f"{where}: {name}.restore")
    _check_search(experiment, f"{where}: {name}")
    for logger in experiment.loggers:
        if find_spec(logger) is None:
            raise UserError(f"{where}: {name}.loggers: {logger} is not installed; pip install {logger}")
    return experiment


def _check_name(name: str, where: str) -> None:
    """Checks that the name of an experiment is a valid name of a single folder below the storage path."""
    if len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise UserError(f"{where}: {name[:40]}..: is longer than a folder name may be ({LONGEST_NAME} bytes)")
    if not _NAME.fullmatch(name) or name.endswith((" ", ".")):
        raise UserError(
            f"{where}: {name!r} is not a valid experiment name: it names a folder; use letters, digits and -_.,=+@"
        )


def _check_search(experiment: Experiment, at: str) -> None:
    with_distributions(experiment.config, f"{at}.config")
    if (experiment.scheduler or experiment.search_alg) and not (experiment.metric and experiment.mode):
        raise UserError(f"{at}.metric: a scheduler or searcher needs metric and mode; set both")
    scheduler(experiment.scheduler, f"{at}.scheduler")
    searcher(experiment.search_alg, f"{at}.search_alg")
    trials = experiment.num_samples * (experiment.seeds or 1) * grid_size(experiment.config)
    if trials > MAX_TRIALS:
        raise UserError(f"{at}: results in {trials} trials, more than {MAX_TRIALS}")
    if experiment.seeds and (experiment.search_alg or "seed" in experiment.config):
        raise UserError(
            f"{at}.seeds: cannot be combined with {'search_alg' if experiment.search_alg else 'config.seed'}"
        )


def variants(settings: Any) -> Iterator[Any]:
    """Yields settings without ``grid_search`` and distributions, with each alternative value once.

    All other settings have their first value. The alternatives of a distribution over numbers are its bounds.
    """
    if is_distribution(settings):
        yield from ends(distribution(settings, "config"))
    elif isinstance(settings, dict) and set(settings) == {"grid_search"} and isinstance(settings["grid_search"], list):
        for value in settings["grid_search"]:
            yield from variants(value)
    elif isinstance(settings, dict):
        options = {key: list(variants(value)) for key, value in settings.items()}
        first_values = {key: values[0] if values else None for key, values in options.items()}
        yield first_values
        for key, values in options.items():
            for value in values[1:]:
                yield {**first_values, key: value}
    else:
        yield settings
