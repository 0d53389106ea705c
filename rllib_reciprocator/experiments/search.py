"""Search spaces, schedulers and searchers as files write them."""

from __future__ import annotations

import inspect
import math
from typing import Any

from ray import tune
from ray.tune.schedulers import SCHEDULER_IMPORT
from ray.tune.search import SEARCH_ALG_IMPORT, BasicVariantGenerator
from ray.tune.search.sample import Categorical, Domain, Float, Integer

from rllib_reciprocator.experiments.errors import UserError, unknown

# What ``{tune: NAME, args: [..]}`` may name: Tune's own functions.
DISTRIBUTIONS = (
    "choice", "lograndint", "loguniform", "qlograndint", "qloguniform", "qrandint", "qrandn", "quniform", "randint",
    "randn", "uniform",
)  # fmt: skip


# Arguments of schedulers by which they set up so many parts of themselves.
_MOST = {"brackets": 100, "max_concurrent": 10_000}


def is_distribution(value: Any) -> bool:
    """Whether a value is of the form ``{tune: NAME, args: [..]}``."""
    return isinstance(value, dict) and "tune" in value and set(value) <= {"tune", "args"}


def distribution(value: dict[str, Any], where: str) -> Domain:
    """Tune's distribution of that form.

    Raises:
        UserError: If there is none of that name, or its arguments are wrong.
    """
    name, args = value["tune"], value.get("args", [])
    if not isinstance(args, list):
        raise UserError(f"{where}.args: {args!r} is not a list")
    if name not in DISTRIBUTIONS:
        raise UserError(f"{where}.tune: {name!r} is {unknown(name, DISTRIBUTIONS)}")
    try:
        made = getattr(tune, name)(*args)
        made.sample()
    except Exception as error:  # Tune and numpy raise whatever arguments lead them to
        raise UserError(f"{where}: {name} cannot take {args} ({error})") from None
    return made


def ends(domain: Domain) -> list[Any]:
    """The values between which a distribution draws, or all of a choice; one draw where there are neither."""
    if isinstance(domain, Categorical):
        return list(domain.categories)
    if isinstance(domain, Integer):
        return [domain.lower, domain.upper - 1]
    if isinstance(domain, Float) and math.isfinite(domain.lower) and math.isfinite(domain.upper):
        return [domain.lower, domain.upper]
    return [domain.sample()]


def grid_size(settings: Any) -> int:
    """How many combinations the grids in settings make."""
    if isinstance(settings, dict) and set(settings) == {"grid_search"} and isinstance(settings["grid_search"], list):
        return sum(grid_size(value) for value in settings["grid_search"])
    if isinstance(settings, dict):
        return math.prod(grid_size(value) for value in settings.values())
    return 1


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
    if not isinstance(name, str) or name not in known:
        raise UserError(f"{where}.type: {name!r} is {unknown(name, known)}")
    arguments = {key: with_distributions(value, f"{where}.{key}") for key, value in described.items() if key != "type"}
    try:
        made = known[name] if isinstance(known[name], type) else known[name]()
        accepted = inspect.signature(made).parameters
        for key in arguments:
            if key not in accepted:
                raise UserError(f"{where}.{key}: {unknown(key, accepted)}")
            if key in _MOST and not (isinstance(arguments[key], int) and 1 <= arguments[key] <= _MOST[key]):
                raise UserError(f"{where}.{key}: {arguments[key]!r} is not a number from 1 to {_MOST[key]}")
        if "time_attr" in accepted:
            arguments.setdefault("time_attr", "training_iteration")
        return made(**arguments)
    except UserError:
        raise
    except Exception as error:  # Tune's schedulers and searchers check what they are given each in their own way
        raise UserError(f"{where}: {error or type(error).__name__}") from None
