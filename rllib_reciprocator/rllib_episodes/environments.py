"""Environments by name, as RLlib takes them: our games, whatever has PettingZoo's interface, and Melting Pot."""

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
    """A PettingZoo ``ParallelEnv`` for RLlib's env runners.

    Differs from RLlib's ``ParallelPettingZooEnv`` in that agents keep their order, that those who are not there at the
    start belong to it too, and that an episode is over when nobody is left.

    Attributes:
        horizon: Steps of a whole episode, if the environment has a fixed number of them and says so.
        action_names: What its actions are called, if it says.
        has_payoffs: Whether rewards are known to follow from the joint action alone.
        summarize: How outcomes that were summed over steps become rates, if the environment is one of our games.
        takes_turns: If True, one agent acts at a time.
        episode_outcomes: Names of the rates that are defined for whole episodes alone.
    """

    takes_turns = False

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
        self.action_names: tuple[str, ...] = tuple(getattr(env, "action_names", ()))
        self.has_payoffs = getattr(env, "payoffs", None) is not None
        self.summarize = getattr(env, "summarize", None)
        self.episode_outcomes: frozenset[str] = getattr(env, "episode_outcomes", frozenset())

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


class TurnsMultiAgentEnv(PettingZooMultiAgentEnv):
    """A PettingZoo ``AECEnv`` whose agents take turns, for RLlib's env runners: who is to move, and nobody else, sees.

    Rewards reach agents with the step they are given in. All see how an episode ended.
    """

    takes_turns = True

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode."""
        self.env.reset(seed=seed, options=options)
        mover = self.env.agent_selection
        return {mover: self.env.observe(mover)}, {mover: self.env.infos[mover]}

    def step(self, action_dict: dict) -> tuple[dict, dict, dict, dict, dict]:
        """Lets the one who is to move play."""
        env = self.env
        env.step(action_dict[env.agent_selection])
        rewards = {agent: float(env.rewards[agent]) for agent in env.agents}
        terminated = {agent: bool(env.terminations[agent]) for agent in env.agents}
        truncated = {agent: bool(env.truncations[agent]) for agent in env.agents}
        seeing = [agent for agent in env.agents if terminated[agent] or truncated[agent]]
        while env.agents and (env.terminations[env.agent_selection] or env.truncations[env.agent_selection]):
            env.step(None)
        seeing += [env.agent_selection] if env.agents else []
        over = not env.agents
        everybody = over and all(terminated.values())
        return (
            {agent: env.observe(agent) for agent in seeing},
            rewards,
            {**terminated, "__all__": everybody},
            {**truncated, "__all__": over and not everybody},
            {},
        )


class FlatGame(PettingZooMultiAgentEnv):
    """One of our games, its observations as rows of numbers: RLlib has no default networks for grids of a few cells.

    Maps of classes stay as they are; :mod:`rllib_reciprocator.rllib_episodes.scaled_bytes` makes planes of them.
    """

    def __init__(self, env: Any) -> None:
        """Wraps the game."""
        super().__init__(env)
        spaces = self.observation_spaces
        self._flattens = all(space.dtype == np.float32 for space in spaces.values())
        if self._flattens:
            self.observation_spaces = {agent: gymnasium.spaces.flatten_space(space) for agent, space in spaces.items()}
            self.observation_space = gymnasium.spaces.Dict(self.observation_spaces)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode."""
        obs, infos = super().reset(seed=seed, options=options)
        return self._shown(obs), infos

    def step(self, action_dict: dict) -> tuple[dict, dict, dict, dict, dict]:
        """Plays one joint action."""
        obs, *rest = super().step(action_dict)
        return self._shown(obs), *rest  # type: ignore[return-value]

    def _shown(self, obs: dict) -> dict:
        return {agent: seen.ravel() for agent, seen in obs.items()} if self._flattens else obs


class MeltingPotMultiAgentEnv(MultiAgentEnv):
    """A substrate of Melting Pot for RLlib's env runners: ``player_0``, ``player_1``, .., each with its own picture.

    Observations are ``RGB``, ``[88, 88, 3]`` float32 from 0 to 1; what else a substrate shows to one player is left
    out, and so is what it shows of the whole world.
    """

    def __init__(
        self, name: str, roles: Sequence[str] | None = None, num_agents: int | None = None, max_steps: int = 1000
    ) -> None:
        """Builds the substrate.

        Args:
            name: Of the substrate, as ``clean_up``.
            roles: Who plays; the substrate's own default if None.
            num_agents: That many in the substrate's first default role, instead of ``roles``.
            max_steps: After how many steps an episode is cut off, if it has not ended.
        """
        super().__init__()
        substrate = import_module("meltingpot.substrate")
        usual = substrate.get_config(name).default_player_roles
        self._roles = list(roles or ([usual[0]] * num_agents if num_agents else usual))
        self._substrate = substrate.build(name, roles=self._roles)
        self._max_steps, self._step = max_steps, 0
        self.possible_agents = [f"player_{index}" for index in range(len(self._roles))]
        self.agents = self.possible_agents
        shape = self._substrate.observation_spec()[0]["RGB"].shape
        picture = gymnasium.spaces.Box(0.0, 1.0, shape, np.float32)
        choice = gymnasium.spaces.Discrete(int(self._substrate.action_spec()[0].num_values))
        self.observation_spaces = dict.fromkeys(self.possible_agents, picture)
        self.action_spaces = dict.fromkeys(self.possible_agents, choice)
        self.observation_space = gymnasium.spaces.Dict(self.observation_spaces)
        self.action_space = gymnasium.spaces.Dict(self.action_spaces)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode."""
        self._step = 0
        return self._pictures(self._substrate.reset()), {}

    def step(self, action_dict: dict) -> tuple[dict, dict, dict, dict, dict]:
        """Plays one joint action."""
        self._step += 1
        shown = self._substrate.step([int(action_dict[agent]) for agent in self.possible_agents])
        rewards = dict(zip(self.possible_agents, map(float, shown.reward), strict=True))
        over = bool(shown.last())
        truncated = {"__all__": not over and self._step >= self._max_steps}
        return self._pictures(shown), rewards, {"__all__": over}, truncated, {}

    def close(self) -> None:
        """Ends the simulator."""
        self._substrate.close()

    def _pictures(self, shown: Any) -> dict[str, np.ndarray]:
        return {
            agent: seen["RGB"].astype(np.float32) / 255.0
            for agent, seen in zip(self.possible_agents, shown.observation, strict=True)
        }


def is_known(name: str) -> bool:
    """Whether a name is one that :func:`register` makes an environment of."""
    return name.partition("/")[0] in (PETTINGZOO, MELTINGPOT) or social_dilemmas.is_game(name)


def register(name: str) -> None:
    """Registers an environment with RLlib under its name.

    Args:
        name: A game's id, or ``pettingzoo/MODULE``: a module of PettingZoo's (``pettingzoo/butterfly/pistonball_v6``)
            or any other that can be imported (``pettingzoo/my_package.my_env``), with ``parallel_env()`` or ``env()``.
            ``env_config`` goes to these as arguments; ``wrappers`` in it names wrappers of SuperSuit, in their order.
            Or ``meltingpot/SUBSTRATE`` (:class:`MeltingPotMultiAgentEnv`).

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
    """For RLlib, an environment of either of PettingZoo's interfaces."""
    return (TurnsMultiAgentEnv if hasattr(env, "agent_iter") else PettingZooMultiAgentEnv)(env)


def _substrate(name: str) -> str:
    """The substrate's own name."""
    if find_spec("meltingpot") is None:
        raise ValueError(f"{name!r}: Melting Pot is not installed; pip install rllib_reciprocator[meltingpot]")
    known = import_module("meltingpot.substrate").SUBSTRATES
    substrate = name.removeprefix(f"{MELTINGPOT}/")
    if substrate not in known:
        raise ValueError(f"{name!r} is not known{did_you_mean(substrate, known)}")
    return substrate


_MODULE = re.compile(r"[^\W\d]\w*([./][^\W\d]\w*)*")


def _pettingzoo_module(name: str) -> str:
    """The module that has the environment, by its full name."""
    written = name.removeprefix(f"{PETTINGZOO}/")
    path = written.replace("/", ".")
    if not _MODULE.fullmatch(written):
        raise ValueError(f"{name!r} is not {PETTINGZOO}/MODULE, as {PETTINGZOO}/butterfly/pistonball_v6")
    if path.partition(".")[0] == "mpe":
        moved = "mpe2." + path.partition(".")[2]
        raise ValueError(f"{name!r}: MPE has a package of its own; pip install mpe2, and take {PETTINGZOO}/{moved}")
    for module in (f"{PETTINGZOO}.{path}", path):
        try:
            if find_spec(module) is not None:
                return module
        except Exception:  # noqa: S112 -- packages around the module may raise anything, as that they have moved
            continue
    raise ValueError(f"{name!r} is not known: there is no module {PETTINGZOO}.{path} or {path}{_near(path)}")


def _near(path: str) -> str:
    """The nearest of PettingZoo's own environments, as the end of a message."""
    import pettingzoo

    folder = Path(pettingzoo.__path__[0])
    names = [str(file.relative_to(folder).with_suffix("")) for file in folder.glob("*/*_v[0-9]*.py")]
    return did_you_mean(path.replace(".", "/"), names)


def _pettingzoo(module: str, config: dict[str, Any]) -> Any:
    """The environment of a module: parallel, if it has that form or can be given it, else with agents in turns."""
    from pettingzoo.utils.conversions import aec_to_parallel

    wrappers = _wrappers(config.pop("wrappers", []))
    try:
        maker = import_module(module)
    except Exception as error:  # a module of somebody else's
        raise ValueError(f"{module} cannot be imported ({error})") from None
    if hasattr(maker, "parallel_env"):
        env = maker.parallel_env(**config)
    elif hasattr(maker, "env"):
        turns = maker.env(**config)
        env = aec_to_parallel(turns) if turns.metadata.get("is_parallelizable") else turns
    else:
        raise ValueError(f"{module} has neither parallel_env() nor env()")
    for wrapper, arguments in wrappers:
        env = wrapper(env, **arguments)
    return env


def _wrappers(written: Any) -> list[tuple[Callable[..., Any], dict[str, Any]]]:
    """SuperSuit's wrappers and their arguments, from a list of names and of ``{NAME: {ARGUMENT: value}}``."""
    if not written:
        return []
    if find_spec("supersuit") is None:
        raise ValueError("env_config.wrappers: SuperSuit is not installed; pip install rllib_reciprocator[pettingzoo]")
    supersuit = import_module("supersuit")
    known = [name for name in vars(supersuit) if re.fullmatch(r"\w+_v\d+", name)]
    made = []
    for each in written if isinstance(written, list) else [written]:
        name, arguments = next(iter(each.items())) if isinstance(each, dict) and len(each) == 1 else (each, {})
        if name not in known:
            raise ValueError(f"env_config.wrappers: SuperSuit has no wrapper {name!r}{did_you_mean(name, known)}")
        if not isinstance(arguments or {}, dict):
            raise ValueError(f"env_config.wrappers.{name}: {arguments!r} is not a mapping of its arguments")
        made.append((getattr(supersuit, name), arguments or {}))
    return made
