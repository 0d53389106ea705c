"""Multi-agent environments for RLlib by name: games of this package, PettingZoo environments and Melting Pot."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune.registry import register_env

import social_dilemmas
from social_dilemmas.registry import did_you_mean

PETTINGZOO, MELTINGPOT = "pettingzoo", "meltingpot"


class PettingZooMultiAgentEnv(MultiAgentEnv):
    """RLlib wrapper of a PettingZoo ``ParallelEnv``.

    Differs from RLlib's ``ParallelPettingZooEnv``: agents keep their order, agents that are absent at the first step
    are included, and an episode ends when no agent is left.

    Attributes:
        horizon: Length of an episode in environment steps; None if it is not fixed or the environment does not
            define it.
        action_names: Names of the actions; empty if the environment does not define them.
        has_payoffs: True if rewards are known to depend on the joint action only.
        summarize: Function that converts outcomes summed over steps to rates; None if the environment is not a game of
            this package.
        takes_turns: If True, one agent acts at a time.
        episode_outcomes: Names of the rates that are defined for whole episodes only.
    """

    takes_turns = False

    def __init__(self, env: Any) -> None:
        """Wraps a PettingZoo environment."""
        super().__init__()
        self.env = env
        self.possible_agents = list(env.possible_agents)
        self.agents = self.possible_agents
        self.observation_spaces = {agent: env.observation_space(agent) for agent in self.possible_agents}
        self.action_spaces = {agent: env.action_space(agent) for agent in self.possible_agents}
        self.observation_space = gymnasium.spaces.Dict(self.observation_spaces)
        self.action_space = gymnasium.spaces.Dict(self.action_spaces)
        self.horizon: int | None = getattr(env, "horizon", None)
        self.action_names: tuple[str, ...] = tuple(getattr(env, "action_names", ()))
        self.has_payoffs = getattr(env, "payoffs", None) is not None
        self.summarize = getattr(env, "summarize", None)
        self.episode_outcomes: frozenset[str] = getattr(env, "episode_outcomes", frozenset())

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode and returns observations and infos by agent."""
        return self.env.reset(seed=seed, options=options)

    def step(self, action_dict: dict) -> tuple[dict, dict, dict, dict, dict]:
        """Takes one environment step with the agents' actions."""
        obs, rewards, terminated, truncated, infos = self.env.step(action_dict)
        is_done = not self.env.agents
        all_terminated = is_done and all(terminated.values())
        return (
            obs,
            rewards,
            {**terminated, "__all__": all_terminated},
            {**truncated, "__all__": is_done and not all_terminated},
            infos,
        )

    def render(self) -> Any:
        """Renders the environment and returns the result."""
        return self.env.render()

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()


class TurnsMultiAgentEnv(PettingZooMultiAgentEnv):
    """RLlib wrapper of a PettingZoo ``AECEnv``, in which agents take turns.

    Only the agent to move receives an observation. Each agent receives its reward at the step in which it is given. At
    the end of an episode all agents receive their last observation.
    """

    takes_turns = True

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode and returns observation and info of the agent that moves first."""
        self.env.reset(seed=seed, options=options)
        mover = self.env.agent_selection
        return {mover: self.env.observe(mover)}, {mover: self.env.infos[mover]}

    def step(self, action_dict: dict) -> tuple[dict, dict, dict, dict, dict]:
        """Takes one environment step with the action of the agent to move."""
        env = self.env
        env.step(action_dict[env.agent_selection])
        rewards = {agent: float(env.rewards[agent]) for agent in env.agents}
        terminated = {agent: bool(env.terminations[agent]) for agent in env.agents}
        truncated = {agent: bool(env.truncations[agent]) for agent in env.agents}
        observers = [agent for agent in env.agents if terminated[agent] or truncated[agent]]
        # PettingZoo expects one step with the action None from each agent that is done.
        while env.agents and (env.terminations[env.agent_selection] or env.truncations[env.agent_selection]):
            env.step(None)
        observers += [env.agent_selection] if env.agents else []
        is_done = not env.agents
        all_terminated = is_done and all(terminated.values())
        return (
            {agent: env.observe(agent) for agent in observers},
            rewards,
            {**terminated, "__all__": all_terminated},
            {**truncated, "__all__": is_done and not all_terminated},
            {},
        )


class FlatGame(PettingZooMultiAgentEnv):
    """RLlib wrapper of a game of this package that flattens float observations.

    Observations are flattened because RLlib has no default networks for grids of a few cells. Class maps are not
    flattened; :mod:`rllib_reciprocator.rllib_episodes.scaled_bytes` converts them to one-hot planes.
    """

    def __init__(self, env: Any) -> None:
        """Wraps a game of this package."""
        super().__init__(env)
        spaces = self.observation_spaces
        self._flattens = all(space.dtype == np.float32 for space in spaces.values())
        if self._flattens:
            self.observation_spaces = {agent: gymnasium.spaces.flatten_space(space) for agent, space in spaces.items()}
            self.observation_space = gymnasium.spaces.Dict(self.observation_spaces)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode and returns observations and infos by agent."""
        obs, infos = super().reset(seed=seed, options=options)
        return self._shown(obs), infos

    def step(self, action_dict: dict) -> tuple[dict, dict, dict, dict, dict]:
        """Takes one environment step with the agents' actions."""
        obs, *rest = super().step(action_dict)
        return self._shown(obs), *rest  # type: ignore[return-value]

    def _shown(self, obs: dict) -> dict:
        return {agent: agent_obs.ravel() for agent, agent_obs in obs.items()} if self._flattens else obs


class MeltingPotMultiAgentEnv(MultiAgentEnv):
    """RLlib wrapper of a Melting Pot substrate.

    Agents are ``player_0``, ``player_1``, .. The observation of an agent is its ``RGB`` image, ``[88, 88, 3]`` float32
    between 0 and 1. All other observations of the substrate are dropped, including ``WORLD.RGB``.
    """

    def __init__(
        self, name: str, roles: Sequence[str] | None = None, num_agents: int | None = None, max_steps: int = 1000
    ) -> None:
        """Builds the substrate.

        Args:
            name: Name of the substrate, e.g. ``clean_up``.
            roles: Role of each player. If None, the substrate's default roles.
            num_agents: Number of players, all in the substrate's first default role. Ignored if ``roles`` is given.
            max_steps: Number of steps after which an episode is truncated.
        """
        super().__init__()
        substrate = import_module("meltingpot.substrate")
        default_roles = substrate.get_config(name).default_player_roles
        self._roles = list(roles or ([default_roles[0]] * num_agents if num_agents else default_roles))
        self._substrate = substrate.build(name, roles=self._roles)
        self._max_steps, self._step = max_steps, 0
        self.possible_agents = [f"player_{index}" for index in range(len(self._roles))]
        self.agents = self.possible_agents
        shape = self._substrate.observation_spec()[0]["RGB"].shape
        image_space = gymnasium.spaces.Box(0.0, 1.0, shape, np.float32)
        action_space = gymnasium.spaces.Discrete(int(self._substrate.action_spec()[0].num_values))
        self.observation_spaces = dict.fromkeys(self.possible_agents, image_space)
        self.action_spaces = dict.fromkeys(self.possible_agents, action_space)
        self.observation_space = gymnasium.spaces.Dict(self.observation_spaces)
        self.action_space = gymnasium.spaces.Dict(self.action_spaces)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode and returns observations and infos by agent."""
        self._step = 0
        return self._pictures(self._substrate.reset()), {}

    def step(self, action_dict: dict) -> tuple[dict, dict, dict, dict, dict]:
        """Takes one environment step with the agents' actions."""
        self._step += 1
        timestep = self._substrate.step([int(action_dict[agent]) for agent in self.possible_agents])
        rewards = dict(zip(self.possible_agents, map(float, timestep.reward), strict=True))
        is_terminated = bool(timestep.last())
        truncated = {"__all__": not is_terminated and self._step >= self._max_steps}
        return self._pictures(timestep), rewards, {"__all__": is_terminated}, truncated, {}

    def close(self) -> None:
        """Closes the simulator."""
        self._substrate.close()

    def _pictures(self, shown: Any) -> dict[str, np.ndarray]:
        return {
            agent: obs["RGB"].astype(np.float32) / 255.0
            for agent, obs in zip(self.possible_agents, shown.observation, strict=True)
        }


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
    module = _pettingzoo_module(name)
    return lambda config: _wrapped(_pettingzoo(module, dict(config)))


def _wrapped(env: Any) -> PettingZooMultiAgentEnv:
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


_MODULE = re.compile(r"[^\W\d]\w*([./][^\W\d]\w*)*")


def _pettingzoo_module(name: str) -> str:
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


def _pettingzoo(module: str, config: dict[str, Any]) -> Any:
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


def _wrappers(written: Any) -> list[tuple[Callable[..., Any], dict[str, Any]]]:
    """Parses the setting ``wrappers``.

    Args:
        written: A list of names of SuperSuit wrappers and of mappings ``{NAME: {ARGUMENT: value}}``.

    Returns:
        The wrapper functions and their keyword arguments.

    Raises:
        ValueError: If SuperSuit is not installed, has no such wrapper, or the arguments are not a mapping.
    """
    if not written:
        return []
    if find_spec("supersuit") is None:
        raise ValueError("env_config.wrappers: SuperSuit is not installed; pip install rllib_reciprocator[pettingzoo]")
    supersuit = import_module("supersuit")
    names = [name for name in vars(supersuit) if re.fullmatch(r"\w+_v\d+", name)]
    wrappers = []
    for entry in written if isinstance(written, list) else [written]:
        name, arguments = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else (entry, {})
        if name not in names:
            raise ValueError(f"env_config.wrappers: SuperSuit has no wrapper {name!r}{did_you_mean(name, names)}")
        if not isinstance(arguments or {}, dict):
            raise ValueError(f"env_config.wrappers.{name}: {arguments!r} is not a mapping of its arguments")
        wrappers.append((getattr(supersuit, name), arguments or {}))
    return wrappers
