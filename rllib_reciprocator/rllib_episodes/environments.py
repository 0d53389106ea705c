"""Multi-agent environments for RLlib by name: games of this package, PettingZoo environments and Melting Pot."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune.registry import register_env

import social_dilemmas
from rllib_reciprocator.rllib_episodes.env_wrappers import (
    FlatGame,
    MeltingPotMultiAgentEnv,
    PettingZooMultiAgentEnv,
    TurnsMultiAgentEnv,
)
from rllib_reciprocator.rllib_episodes.pettingzoo_modules import PETTINGZOO, build_pettingzoo, pettingzoo_module
from social_dilemmas.registry import did_you_mean

if TYPE_CHECKING:
    from pettingzoo.utils.env import AECEnv, ParallelEnv

MELTINGPOT = "meltingpot"


def is_known(name: str) -> bool:
    """Returns True if :func:`register` accepts a name: that of a game, or with one of the prefixes of this module."""
    return name.partition("/")[0] in (PETTINGZOO, MELTINGPOT) or social_dilemmas.is_game(name)


def register(name: str) -> None:
    """Registers an environment with RLlib under its name.

    Args:
        name: One of three forms:

            - the id of a game of this package;
            - ``pettingzoo/MODULE``, a module of PettingZoo (``pettingzoo/butterfly/pistonball_v6``) or any other module
              that can be imported (``pettingzoo/my_package.my_env``), with a function ``parallel_env()`` or ``env()``.
              The function gets ``env_config`` as keyword arguments, except for ``wrappers``, a list of SuperSuit
              wrappers that are applied in this order;
            - ``meltingpot/SUBSTRATE``, see :class:`MeltingPotMultiAgentEnv`.

    Raises:
        ValueError: If there is no such environment.
    """
    register_env(name, _creator(name))


def _creator(name: str) -> Callable[[Any], MultiAgentEnv]:
    if social_dilemmas.is_game(name):
        return lambda config: FlatGame(social_dilemmas.parallel_env(name, **dict(config)))
    if name.startswith(f"{MELTINGPOT}/"):
        substrate = _substrate(name)
        return lambda config: MeltingPotMultiAgentEnv(substrate, **dict(config))
    module = pettingzoo_module(name)
    return lambda config: _wrap(build_pettingzoo(module, dict(config)))


def _wrap(env: AECEnv | ParallelEnv) -> PettingZooMultiAgentEnv:
    """Wraps a PettingZoo environment for RLlib, an ``AECEnv`` or a ``ParallelEnv``."""
    return (TurnsMultiAgentEnv if hasattr(env, "agent_iter") else PettingZooMultiAgentEnv)(env)


def _substrate(name: str) -> str:
    """Returns the name of the substrate without prefix.

    Raises:
        ValueError: If Melting Pot is not installed or has no such substrate.
    """
    if find_spec("meltingpot") is None:
        raise ValueError(f"{name!r}: Melting Pot is not installed; pip install rllib_reciprocator[meltingpot]")
    substrates = import_module("meltingpot.substrate").SUBSTRATES
    substrate = name.removeprefix(f"{MELTINGPOT}/")
    if substrate not in substrates:
        raise ValueError(f"{name!r} is not known{did_you_mean(substrate, substrates)}")
    return substrate
