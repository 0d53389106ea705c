"""Env-to-module connectors that prepare observations for RLlib's default models: vectors, and images in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import gymnasium
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.connectors.env_to_module import FlattenObservations
from ray.rllib.models.utils import get_filter_config
from ray.rllib.utils import force_list
from ray.rllib.utils.typing import AgentID

from rllib_reciprocator.rllib_episodes.encoding import flat_space, needs_flattening
from rllib_reciprocator.rllib_episodes.joint_steps import JointSpaces
from rllib_reciprocator.rllib_episodes.scaled_bytes import ScaleBytes, ScaleBytesOfAgents, holds_bytes, scaled_space


def prepare_observations(
    config: AlgorithmConfig,
    user_connectors: Callable[..., Any] | None,
    joint: JointSpaces,
    unprepared_agents: Collection[Any],
) -> Callable[..., list[Any]] | None:
    """Returns the function that builds the env-to-module connectors: the user's, then those that prepare observations.

    Args:
        config: The config. Its attribute ``prepared_spaces`` is set.
        user_connectors: Function that builds the user's own connectors, or None.
        joint: The agents and their spaces.
        unprepared_agents: Agents with a module class of the user, which gets the original observations.
    """
    agent_spaces = {agent: space for agent, space in joint.observations.items() if agent not in unprepared_agents}
    flat_agents = tuple(agent for agent, space in agent_spaces.items() if needs_flattening(space))
    byte_agents = tuple(agent for agent, space in agent_spaces.items() if holds_bytes(space))
    # Bytes that are flattened too, e.g. vectors of bytes, have the flat space.
    config.prepared_spaces = {
        **{agent: scaled_space(joint.observations[agent]) for agent in byte_agents},
        **{agent: flat_space(joint.observations[agent]) for agent in flat_agents},
    }
    return (
        partial(preparing, user_connectors, flat_agents, byte_agents) if flat_agents or byte_agents else user_connectors
    )


def prepare_observations_of_one(config: AlgorithmConfig) -> None:
    """Adds the connectors of :func:`prepare_observations` for a single-agent Gymnasium environment.

    Does nothing if the user has set env-to-module connectors.

    Args:
        config: The config. It is modified in place.
    """
    if config._env_to_module_connector or not isinstance(config.env, str) or config.env not in gymnasium.registry:
        return
    env = gymnasium.make(config.env, **config.env_config)
    flatten, has_bytes = needs_flattening(env.observation_space), holds_bytes(env.observation_space)
    env.close()
    if flatten or has_bytes:
        config.env_runners(env_to_module_connector=partial(preparing_one, flatten, has_bytes))


def preparing(
    user_connectors: Callable[..., Any] | None,
    flat_agents: tuple[Any, ...],
    byte_agents: tuple[Any, ...],
    *args: object,
    **kwargs: object,
) -> list[Any]:
    """Returns the user's env-to-module connectors, followed by those that prepare multi-agent observations."""
    return [
        *(force_list(user_connectors(*args, **kwargs)) if user_connectors else []),
        *([ScaleBytesOfAgents(agents=byte_agents)] if byte_agents else []),
        *([FlattenObservations(multi_agent=True, agent_ids=list(flat_agents))] if flat_agents else []),
    ]


def preparing_one(flatten: bool, has_bytes: bool, *args: object, **kwargs: object) -> list[Any]:
    """Returns the env-to-module connectors that prepare the observations of a single-agent environment."""
    return [*([ScaleBytes()] if has_bytes else []), *([FlattenObservations()] if flatten else [])]


def seen_space(config: AlgorithmConfig, joint: JointSpaces, agent: AgentID) -> Any:
    """Returns the observation space of an agent's module, without the influence balance."""
    return getattr(config, "prepared_spaces", {}).get(agent, joint.observations[agent])


def filters_for(shape: tuple[int, ...]) -> list[list[Any]]:
    """Returns convolution filters for images of a shape: RLlib's defaults if there are any, else three layers."""
    try:
        return get_filter_config(shape)
    except ValueError:
        return [[16, [4, 4], 2], [32, [4, 4], 2], [64, [4, 4], 2]]
