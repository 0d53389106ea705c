"""Environments by name, as RLlib takes them: our games, and whatever has PettingZoo's interface."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune.registry import register_env

import social_dilemmas
from social_dilemmas.registry import did_you_mean

PETTINGZOO = "pettingzoo"


class PettingZooMultiAgentEnv(MultiAgentEnv):
    """A PettingZoo ``ParallelEnv`` for RLlib's env runners.

    Differs from RLlib's ``ParallelPettingZooEnv`` in that agents keep their order, that those who are not there at the
    start belong to it too, and that an episode is over when nobody is left.

    Attributes:
        horizon: Steps of a whole episode, if the environment has a fixed number of them and says so.
        summarize: How outcomes that were summed over steps become rates, if the environment is one of our games.
    """

    def __init__(self, env: Any) -> None:
        """Wraps the environment."""
        super().__init__()
        self.env = env
        self.possible_agents = list(env.possible_agents)
        self.agents = self.possible_agents
        self.observation_spaces = {agent: env.observation_space(agent) for agent in self.possible_agents}
        self.action_spaces = {agent: env.action_space(agent) for agent in self.possible_agents}
        self.observation_space = gymnasium.spaces.Dict(self.observation_spaces)
        self.action_space = gymnasium.spaces.Dict(self.action_spaces)
        self.horizon: int | None = getattr(env, "horizon", None)
        self.summarize = getattr(env, "summarize", None)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode."""
        return self.env.reset(seed=seed, options=options)

    def step(self, action_dict: dict) -> tuple[dict, dict, dict, dict, dict]:
        """Plays one joint action."""
        obs, rewards, terminated, truncated, infos = self.env.step(action_dict)
        over = not self.env.agents
        everybody = over and all(terminated.values())
        return (
            obs,
            rewards,
            {**terminated, "__all__": everybody},
            {**truncated, "__all__": over and not everybody},
            infos,
        )

    def render(self) -> Any:
        """What the environment draws."""
        return self.env.render()

    def close(self) -> None:
        """Releases what the environment holds."""
        self.env.close()


class FlatGame(PettingZooMultiAgentEnv):
    """One of our games, its observations as rows of numbers: RLlib has no default networks for grids of a few cells."""

    def __init__(self, env: Any) -> None:
        """Wraps the game."""
        super().__init__(env)
        self.observation_spaces = {
            agent: gymnasium.spaces.flatten_space(space) for agent, space in self.observation_spaces.items()
        }
        self.observation_space = gymnasium.spaces.Dict(self.observation_spaces)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode."""
        obs, infos = super().reset(seed=seed, options=options)
        return {agent: seen.ravel() for agent, seen in obs.items()}, infos

    def step(self, action_dict: dict) -> tuple[dict, dict, dict, dict, dict]:
        """Plays one joint action."""
        obs, *rest = super().step(action_dict)
        return {agent: seen.ravel() for agent, seen in obs.items()}, *rest  # type: ignore[return-value]


def is_known(name: str) -> bool:
    """Whether a name is one that :func:`register` makes an environment of."""
    return name in social_dilemmas.game_ids() or name.startswith(f"{PETTINGZOO}/")


def register(name: str) -> None:
    """Registers an environment with RLlib under its name.

    Args:
        name: A game's id, or ``pettingzoo/MODULE``: a module of PettingZoo's (``pettingzoo/butterfly/pistonball_v6``)
            or any other that can be imported (``pettingzoo/my_package.my_env``), with ``parallel_env()`` or ``env()``.
            ``env_config`` goes to these as arguments; ``wrappers`` in it names wrappers of SuperSuit, in their order.

    Raises:
        ValueError: If there is no such environment.
    """
    register_env(name, _creator(name))


def _creator(name: str) -> Callable[[Any], MultiAgentEnv]:
    if name in social_dilemmas.game_ids():
        return lambda config: FlatGame(social_dilemmas.parallel_env(name, **dict(config)))
    module = _pettingzoo_module(name)
    return lambda config: PettingZooMultiAgentEnv(_pettingzoo(module, dict(config)))


def _pettingzoo_module(name: str) -> str:
    """The module that has the environment, by its full name."""
    path = name.removeprefix(f"{PETTINGZOO}/").replace("/", ".")
    for module in (f"pettingzoo.{path}", path):
        try:
            if find_spec(module) is not None:
                return module
        except (ModuleNotFoundError, ValueError):
            continue
    raise ValueError(f"{name!r} is not known: there is no module pettingzoo.{path} or {path}{_near(path)}")


def _near(path: str) -> str:
    """The nearest of PettingZoo's own environments, as the end of a message."""
    import pettingzoo

    folder = Path(pettingzoo.__path__[0])
    names = [str(file.relative_to(folder).with_suffix("")) for file in folder.glob("*/*_v[0-9]*.py")]
    return did_you_mean(path.replace(".", "/"), names)


def _pettingzoo(module: str, config: dict[str, Any]) -> Any:
    """The parallel environment of a module; others are converted."""
    from pettingzoo.utils.conversions import aec_to_parallel, turn_based_aec_to_parallel

    wrappers = config.pop("wrappers", [])
    maker = import_module(module)
    if hasattr(maker, "parallel_env"):
        env = maker.parallel_env(**config)
    elif hasattr(maker, "env"):
        turns = maker.env(**config)
        env = aec_to_parallel(turns) if turns.metadata.get("is_parallelizable") else turn_based_aec_to_parallel(turns)
    else:
        raise ValueError(f"{module} has neither parallel_env() nor env()")
    for wrapper in wrappers:
        name, arguments = next(iter(wrapper.items())) if isinstance(wrapper, dict) else (wrapper, {})
        env = getattr(import_module("supersuit"), name)(env, **(arguments or {}))
    return env
