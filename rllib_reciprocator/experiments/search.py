"""Search spaces, schedulers and searchers as files write them."""

from __future__ import annotations

import inspect
from typing import Any

from ray import tune
from ray.tune.schedulers import SCHEDULER_IMPORT
from ray.tune.search import SEARCH_ALG_IMPORT, BasicVariantGenerator
from ray.tune.search.sample import Domain

from rllib_reciprocator.experiments.errors import UserError, unknown

# What ``{tune: NAME, args: [..]}`` may name: Tune's own functions.
DISTRIBUTIONS = (
    "choice", "lograndint", "loguniform", "qlograndint", "qloguniform", "qrandint", "qrandn", "quniform", "randint",
    "randn", "uniform",
)  # fmt: skip


def is_distribution(value: Any) -> bool:
    """Whether a value is of the form ``{tune: NAME, args: [..]}``."""
    return isinstance(value, dict) and "tune" in value and set(value) <= {"tune", "args"}


def distribution(value: dict[str, Any], where: str) -> Domain:
    """Tune's distribution of that form.

    Raises:
        UserError: If there is none of that name, or its arguments are wrong.
    """
    name, args = value["tune"], value.get("args", [])
    if name not in DISTRIBUTIONS:
        raise UserError(f"{where}.tune: {name!r} is {unknown(name, DISTRIBUTIONS)}")
    try:
        made = getattr(tune, name)(*args)
        made.sample()
    except (TypeError, ValueError, AssertionError, IndexError, OverflowError) as error:
        raise UserError(f"{where}: {name} cannot take {args} ({error})") from None
    return made


def with_distributions(settings: Any, where: str = "config") -> Any:
    """Settings with Tune's distributions in the place of their descriptions, at any depth."""
    if is_distribution(settings):
        return distribution(settings, where)
    if isinstance(settings, dict):
        return {key: with_distributions(value, f"{where}.{key}") for key, value in settings.items()}
    if isinstance(settings, list):
        return [with_distributions(value, where) for value in settings]
    return settings


def scheduler(described: dict[str, Any] | None, where: str) -> Any:
    """A scheduler of Tune's from ``{type: NAME, ..}``; None if none is described.

    Raises:
        UserError: If there is none of that name, or its arguments are wrong.
    """
    return _made(described, where, {**SCHEDULER_IMPORT, "asha": SCHEDULER_IMPORT["async_hyperband"]})


def searcher(described: dict[str, Any] | None, where: str) -> Any:
    """A searcher of Tune's from ``{type: NAME, ..}``.

    If none is described, grids are gone through and distributions drawn from, each draw for the whole grid: so that
    every drawn setting is run with every seed.

    Raises:
        UserError: If there is none of that name, its package is not installed, or its arguments are wrong.
    """
    made = _made(described, where, SEARCH_ALG_IMPORT)
    return BasicVariantGenerator(constant_grid_search=True) if made is None else made


def _made(described: dict[str, Any] | None, where: str, known: dict[str, Any]) -> Any:
    if described is None:
        return None
    name = described.get("type")
    if name not in known:
        raise UserError(f"{where}.type: {name!r} is {unknown(name, known)}")
    arguments = {key: with_distributions(value, f"{where}.{key}") for key, value in described.items() if key != "type"}
    try:
        made = known[name] if isinstance(known[name], type) else known[name]()
        accepted = inspect.signature(made).parameters
        for key in arguments:
            if key not in accepted:
                raise UserError(f"{where}.{key}: {unknown(key, accepted)}")
        return made(**arguments)
    except UserError:
        raise
    except (TypeError, ValueError, AssertionError, ImportError) as error:
        raise UserError(f"{where}: {error}") from None
