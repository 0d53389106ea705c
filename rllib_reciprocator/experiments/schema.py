"""Experiments as RLlib's YAML files describe them: typed, and checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rllib_reciprocator.experiments.errors import UserError, explain, unknown
from rllib_reciprocator.experiments.search import (
    distribution,
    is_distribution,
    scheduler,
    searcher,
    with_distributions,
)

STOP_ROOTS = (
    "training_iteration",
    "timesteps_total",
    "time_total_s",
    "episodes_total",
    "num_env_steps_sampled_lifetime",
)
STOP_TREES = ("env_runners", "learners", "evaluation")


class Experiment(BaseModel):
    """One entry of a YAML file.

    Attributes:
        name: The experiment's folder under the storage path.
        run: Name of the algorithm.
        env: Id of the game or environment.
        stop: When each trial ends: metric -> value to reach.
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
    num_samples: Annotated[int, Field(ge=1)] = 1
    seeds: Annotated[int, Field(ge=1)] | None = None
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


class _LoaderWithFloats(yaml.SafeLoader):
    """YAML 1.1 takes 5e-3 for text, because it has no dot; people write learning rates so."""


_LoaderWithFloats.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse(text: str, where: str) -> dict[str, Any]:
    """Reads YAML (or JSON, which is YAML) that must be a mapping.

    Raises:
        UserError: If it is not.
    """
    try:
        data = yaml.load(text, Loader=_LoaderWithFloats)  # noqa: S506 -- a safe loader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{where}: {line}{getattr(error, 'problem', None) or error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{where}: must be a mapping of keys to values, not {type(data).__name__}")
    return data


def read_file(path: str | Path) -> list[Experiment]:
    """The experiments in a YAML file.

    Raises:
        UserError: If the file cannot be read or an experiment's own keys are wrong. Settings of the algorithm are
            checked by :func:`rllib_reciprocator.experiments.validation.check`.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
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
    if not isinstance(entry, dict):
        raise UserError(f"{where}: {name}: must be a mapping with run, env, stop and config")
    try:
        experiment = Experiment.model_validate({**entry, "name": name})
    except ValidationError as error:
        key, problem = explain(error, set(Experiment.model_fields) - {"name"})
        raise UserError(f"{where}: {name}.{key}: {problem}") from None
    _check_search(experiment, f"{where}: {name}")
    for logger in experiment.loggers:
        if find_spec(logger) is None:
            raise UserError(f"{where}: {name}.loggers: {logger} is not installed; pip install {logger}")
    for metric in experiment.stop:
        root = metric.split("/")[0]
        if metric not in STOP_ROOTS and root not in STOP_TREES:
            raise UserError(
                f"{where}: {name}.stop.{metric}: {unknown(metric, [*STOP_ROOTS, *(f'{t}/..' for t in STOP_TREES)])}"
            )
    return experiment


def _check_search(experiment: Experiment, at: str) -> None:
    with_distributions(experiment.config, f"{at}.config")
    if (experiment.scheduler or experiment.search_alg) and not (experiment.metric and experiment.mode):
        raise UserError(f"{at}.metric: a scheduler or searcher needs metric and mode to go by")
    scheduler(experiment.scheduler, f"{at}.scheduler")
    searcher(experiment.search_alg, f"{at}.search_alg")
    if experiment.seeds and (experiment.search_alg or "seed" in experiment.config):
        raise UserError(f"{at}.seeds: not beside {'search_alg' if experiment.search_alg else 'config.seed'}")


def variants(settings: Any) -> Iterator[Any]:
    """Settings without ``grid_search`` and distributions: every alternative once, the others at their first."""
    if is_distribution(settings):
        yield distribution(settings, "config").sample()
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
