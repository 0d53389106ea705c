"""Search spaces, schedulers and searchers, as described in YAML files."""

from __future__ import annotations

import inspect
import math
from typing import Any

from ray import tune
from ray.tune.schedulers import SCHEDULER_IMPORT
from ray.tune.search import SEARCH_ALG_IMPORT, BasicVariantGenerator
from ray.tune.search.sample import Categorical, Domain, Float, Integer

from rllib_reciprocator.utils.errors import UserError, unknown

# Functions of Tune that ``{tune: NAME, args: [..]}`` may name.
DISTRIBUTIONS = (
    "choice", "lograndint", "loguniform", "qlograndint", "qloguniform", "qrandint", "qrandn", "quniform", "randint",
    "randn", "uniform",
)  # fmt: skip


# Maximum values of arguments that set how many objects a scheduler or searcher allocates.
_MAX_VALUES = {"brackets": 100, "max_concurrent": 10_000}


def is_distribution(value: Any) -> bool:
    """Returns True if a value has the form ``{tune: NAME, args: [..]}``."""
    return isinstance(value, dict) and "tune" in value and set(value) <= {"tune", "args"}


def distribution(value: dict[str, Any], where: str) -> Domain:
    """Builds the Tune distribution that ``{tune: NAME, args: [..]}`` describes.

    Raises:
        UserError: If no distribution has this name, or if its arguments are invalid.
    """
    name, args = value["tune"], value.get("args", [])
    if not isinstance(args, list):
        raise UserError(f"{where}.args: {args!r} is not a list")
    if name not in DISTRIBUTIONS:
        raise UserError(f"{where}.tune: {name!r} is {unknown(name, DISTRIBUTIONS)}")
    try:
        domain = getattr(tune, name)(*args)
        domain.sample()
    except Exception as error:  # Tune and NumPy raise exceptions of any type
        raise UserError(f"{where}: {name} does not accept {args} ({error})") from None
    return domain


def ends(domain: Domain) -> list[Any]:
    """Returns the bounds of a distribution, or all options of a choice; a single sample if it has no finite bounds."""
    if isinstance(domain, Categorical):
        return list(domain.categories)
    if isinstance(domain, Integer):
        return [domain.lower, domain.upper - 1]
    if isinstance(domain, Float) and math.isfinite(domain.lower) and math.isfinite(domain.upper):
        return [domain.lower, domain.upper]
    return [domain.sample()]


def grid_size(settings: object) -> int:
    """Returns the number of combinations of all grid searches in settings."""
    if isinstance(settings, dict) and set(settings) == {"grid_search"} and isinstance(settings["grid_search"], list):
        return sum(grid_size(value) for value in settings["grid_search"])
    if isinstance(settings, dict):
        return math.prod(grid_size(value) for value in settings.values())
    return 1


def with_distributions(settings: Any, where: str = "config") -> Any:
    """Returns settings with descriptions of distributions replaced by Tune's distributions, at any depth."""
    if is_distribution(settings):
        return distribution(settings, where)
    if isinstance(settings, dict):
        return {key: with_distributions(value, f"{where}.{key}") for key, value in settings.items()}
    if isinstance(settings, list):
        return [with_distributions(value, where) for value in settings]
    return settings


def scheduler(description: dict[str, Any] | None, where: str) -> Any:
    """Builds a Tune scheduler from ``{type: NAME, ..}``; returns None for None.

    Raises:
        UserError: If no scheduler has this name, or if its arguments are invalid.
    """
    return _build_component(description, where, {**SCHEDULER_IMPORT, "asha": SCHEDULER_IMPORT["async_hyperband"]})


def searcher(description: dict[str, Any] | None, where: str) -> Any:
    """Builds a Tune searcher from ``{type: NAME, ..}``.

    For None, the default searcher is returned. It runs all combinations of a grid, and keeps each sample of the
    distributions for the whole grid, so that every sampled setting is run with every seed.

    Raises:
        UserError: If no searcher has this name, its package is not installed, or its arguments are invalid.
    """
    search_alg = _build_component(description, where, SEARCH_ALG_IMPORT)
    return BasicVariantGenerator(constant_grid_search=True) if search_alg is None else search_alg


def _build_component(description: dict[str, Any] | None, where: str, import_functions: dict[str, Any]) -> Any:
    if description is None:
        return None
    name = description.get("type")
    if not isinstance(name, str) or name not in import_functions:
        raise UserError(f"{where}.type: {name!r} is {unknown(name, import_functions)}")
    arguments = {
        key: with_distributions(value, f"{where}.{key}") for key, value in description.items() if key != "type"
    }
    try:
        component_class = (
            import_functions[name] if isinstance(import_functions[name], type) else import_functions[name]()
        )
        parameters = inspect.signature(component_class).parameters
        for key in arguments:
            if key not in parameters:
                raise UserError(f"{where}.{key}: {unknown(key, parameters)}")
            if key in _MAX_VALUES and not (isinstance(arguments[key], int) and 1 <= arguments[key] <= _MAX_VALUES[key]):
                raise UserError(f"{where}.{key}: {arguments[key]!r} is not a number from 1 to {_MAX_VALUES[key]}")
        if "time_attr" in parameters:
            arguments.setdefault("time_attr", "training_iteration")
        return component_class(**arguments)
    except UserError:
        raise
    except Exception as error:  # Tune's schedulers and searchers raise exceptions of any type
        raise UserError(f"{where}: {error or type(error).__name__}") from None
