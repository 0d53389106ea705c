"""Modules of PettingZoo environments, and the environments that they define."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from social_dilemmas.registry import did_you_mean

PETTINGZOO = "pettingzoo"
_MODULE = re.compile(r"[^\W\d]\w*([./][^\W\d]\w*)*")


def pettingzoo_module(name: str) -> str:
    """Returns the full name of the module that defines the environment.

    Raises:
        ValueError: If there is no such module.
    """
    module_path = name.removeprefix(f"{PETTINGZOO}/")
    path = module_path.replace("/", ".")
    if not _MODULE.fullmatch(module_path):
        raise ValueError(f"{name!r} is not {PETTINGZOO}/MODULE, e.g. {PETTINGZOO}/butterfly/pistonball_v6")
    if path.partition(".")[0] == "mpe":
        mpe2_path = "mpe2." + path.partition(".")[2]
        raise ValueError(f"{name!r}: MPE moved to the package mpe2; pip install mpe2 and use {PETTINGZOO}/{mpe2_path}")
    for module in (f"{PETTINGZOO}.{path}", path):
        try:
            if find_spec(module) is not None:
                return module
        except Exception:  # noqa: S112 -- parent packages may raise anything on import, e.g. that they have moved
            continue
    raise ValueError(f"{name!r} is not known: there is no module {PETTINGZOO}.{path} or {path}{_near(path)}")


def _near(path: str) -> str:
    """Returns the most similar PettingZoo environments as the end of an error message."""
    import pettingzoo

    folder = Path(pettingzoo.__path__[0])
    names = [str(file.relative_to(folder).with_suffix("")) for file in folder.glob("*/*_v[0-9]*.py")]
    return did_you_mean(path.replace(".", "/"), names)


def build_pettingzoo(module: str, config: dict[str, Any]) -> Any:
    """Builds the environment of a module: a ``ParallelEnv`` if possible, by conversion if needed, else an ``AECEnv``.

    Raises:
        ValueError: If the module cannot be imported or defines no environment.
    """
    from pettingzoo.utils.conversions import aec_to_parallel

    wrappers = _wrappers(config.pop("wrappers", []))
    try:
        env_module = import_module(module)
    except Exception as error:  # third-party modules may raise anything
        raise ValueError(f"{module} cannot be imported ({error})") from None
    if hasattr(env_module, "parallel_env"):
        env = env_module.parallel_env(**config)
    elif hasattr(env_module, "env"):
        aec_env = env_module.env(**config)
        env = aec_to_parallel(aec_env) if aec_env.metadata.get("is_parallelizable") else aec_env
    else:
        raise ValueError(f"{module} has neither parallel_env() nor env()")
    for wrapper, arguments in wrappers:
        env = wrapper(env, **arguments)
    return env


def _wrappers(setting: Any) -> list[tuple[Callable[..., Any], dict[str, Any]]]:
    """Parses the setting ``wrappers``.

    Args:
        setting: A list of names of SuperSuit wrappers and of mappings ``{NAME: {ARGUMENT: value}}``.

    Returns:
        The wrapper functions and their keyword arguments.

    Raises:
        ValueError: If SuperSuit is not installed, has no such wrapper, or the arguments are not a mapping.
    """
    if not setting:
        return []
    if find_spec("supersuit") is None:
        raise ValueError("env_config.wrappers: SuperSuit is not installed; pip install rllib_reciprocator[pettingzoo]")
    supersuit = import_module("supersuit")
    names = [name for name in vars(supersuit) if re.fullmatch(r"\w+_v\d+", name)]
    wrappers = []
    for entry in setting if isinstance(setting, list) else [setting]:
        name, arguments = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else (entry, {})
        if name not in names:
            raise ValueError(f"env_config.wrappers: SuperSuit has no wrapper {name!r}{did_you_mean(name, names)}")
        if not isinstance(arguments or {}, dict):
            raise ValueError(f"env_config.wrappers.{name}: {arguments!r} is not a mapping of its arguments")
        wrappers.append((getattr(supersuit, name), arguments or {}))
    return wrappers
