"""Experiments as RLlib's YAML files describe them: typed, and checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rllib_reciprocator.experiments.errors import UserError, explain, unknown, user_path
from rllib_reciprocator.experiments.metrics import check_stop, resolve_metric_alias
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

# What an experiment's folder may be called: one folder, on any file system and object store.
_NAME = re.compile(r"\w[\w .,=+@-]*")
LONGEST_NAME = 100
LARGEST_FILE = 1_000_000
MAX_TRIALS = 10_000


class Experiment(BaseModel):
    """One entry of a YAML file.

    Attributes:
        name: The experiment's folder under the storage path.
        run: Name of the algorithm.
        env: Id of the game or environment.
        stop: When each trial ends: metric -> value to reach; whichever is reached first.
        config: The algorithm's settings; a value may be ``{grid_search: [..]}``.
        num_samples: How often each setting is run, or drawn where it is a distribution (``{tune: NAME, args: [..]}``).
        seeds: With how many seeds each setting is run, 1 to this.
        metric: What schedulers and searchers go by, a path into results.
        mode: Whether the metric is to be as large or as small as possible.
        scheduler: Which of Tune's schedulers stops or changes trials, as ``{type: asha, ..}``.
        search_alg: Which of Tune's searchers proposes settings, as ``{type: optuna}``.
        checkpoint_freq: Every how many iterations to checkpoint; 0 for never.
        checkpoint_at_end: Whether to checkpoint at the end.
        keep_checkpoints_num: How many checkpoints to keep; all if None.
        max_failures: How often a trial that fails starts again from its last checkpoint; -1 for always.
        loggers: Where results are logged beside TensorBoard; their packages must be installed.
        storage_path: Where results go; a path or a URI as ``s3://bucket/results``; Ray's default if None.
        restore: A checkpoint to start from.
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
    """The experiments in a YAML file.

    Raises:
        UserError: If the file cannot be read or an experiment's own keys are wrong. Settings of the algorithm are
            checked by :func:`rllib_reciprocator.experiments.validation.check`.
    """
    file = user_path(str(path), "file")
    try:
        if file.is_file() and file.stat().st_size > LARGEST_FILE:
            raise UserError(f"{path}: is larger than a file of experiments can be ({LARGEST_FILE} bytes)")
        if file.exists() and not file.is_file():
            raise UserError(f"{path}: cannot be read (it is not a file)")
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    entries = parse(text, str(path))
    if not entries:
        raise UserError(f"{path}: has no experiment")
    return [typed(str(name), entry, str(path)) for name, entry in entries.items()]


def typed(name: str, entry: Any, where: str) -> Experiment:
    """One experiment from its mapping.

    Raises:
        UserError: With the file, the key's path and what is wrong.
    """
    _check_name(name, where)
    if not isinstance(entry, dict):
        raise UserError(f"{where}: {name}: must be a mapping with run, env, stop and config")
    known = set(Experiment.model_fields) - {"name"}
    for key in entry:
        if key not in known:
            raise UserError(f"{where}: {name}.{key}: {unknown(key, known)}")
    try:
        experiment = Experiment.model_validate({**entry, "name": name})
    except ValidationError as error:
        key, problem = explain(error, known)
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
    """The results of an experiment go to a folder of its name: that must be one folder, below the storage path."""
    if len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise UserError(f"{where}: {name[:40]}..: is longer than a folder's name can be ({LONGEST_NAME} bytes)")
    if not _NAME.fullmatch(name) or name.endswith((" ", ".")):
        raise UserError(
            f"{where}: {name!r} cannot be an experiment's name: it becomes a folder's; use letters, digits and -_.,=+@"
        )


def _check_search(experiment: Experiment, at: str) -> None:
    with_distributions(experiment.config, f"{at}.config")
    if (experiment.scheduler or experiment.search_alg) and not (experiment.metric and experiment.mode):
        raise UserError(f"{at}.metric: a scheduler or searcher needs metric and mode to go by")
    scheduler(experiment.scheduler, f"{at}.scheduler")
    searcher(experiment.search_alg, f"{at}.search_alg")
    trials = experiment.num_samples * (experiment.seeds or 1) * grid_size(experiment.config)
    if trials > MAX_TRIALS:
        raise UserError(f"{at}: makes {trials} trials, more than {MAX_TRIALS}")
    if experiment.seeds and (experiment.search_alg or "seed" in experiment.config):
        raise UserError(f"{at}.seeds: not beside {'search_alg' if experiment.search_alg else 'config.seed'}")


def variants(settings: Any) -> Iterator[Any]:
    """Settings without ``grid_search`` and distributions: every alternative once, the others at their first.

    Of a distribution over numbers these are its ends.
    """
    if is_distribution(settings):
        yield from ends(distribution(settings, "config"))
    elif isinstance(settings, dict) and set(settings) == {"grid_search"} and isinstance(settings["grid_search"], list):
        for value in settings["grid_search"]:
            yield from variants(value)
    elif isinstance(settings, dict):
        options = {key: list(variants(value)) for key, value in settings.items()}
        first = {key: values[0] if values else None for key, values in options.items()}
        yield first
        for key, values in options.items():
            for value in values[1:]:
                yield {**first, key: value}
    else:
        yield settings
