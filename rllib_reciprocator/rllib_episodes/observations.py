"""Observations as RLlib's default models take them: rows of numbers, and images of numbers from 0 to 1."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import gymnasium
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.connectors.env_to_module import FlattenObservations
from ray.rllib.models.utils import get_filter_config
from ray.rllib.utils import force_list

from rllib_reciprocator.rllib_episodes.encoding import flat_space, needs_flattening
from rllib_reciprocator.rllib_episodes.joint_steps import JointSpaces
from rllib_reciprocator.rllib_episodes.scaled_bytes import ScaleBytes, ScaleBytesOfAgents, holds_bytes, scaled_space


def prepare_observations(
    config: AlgorithmConfig, before: Any, joint: JointSpaces, as_they_are: Collection[Any]
) -> Callable[..., list[Any]] | None:
    """Returns what makes the env-to-module connectors: the user's own, and those that RLlib's default models need.

    Args:
        config: The configuration; its ``prepared_spaces`` are set.
        before: What makes the user's own connectors, if anything.
        joint: The agents and their spaces.
        as_they_are: The agents whose own modules take observations as they are.
    """
    others = {agent: space for agent, space in joint.observations.items() if agent not in as_they_are}
    flattened = tuple(agent for agent, space in others.items() if needs_flattening(space))
    of_bytes = tuple(agent for agent, space in others.items() if holds_bytes(space))
    config.prepared_spaces = {
        **{agent: scaled_space(joint.observations[agent]) for agent in of_bytes},
        **{agent: flat_space(joint.observations[agent]) for agent in flattened},
    }
    return partial(preparing, before, flattened, of_bytes) if flattened or of_bytes else before


def prepare_observations_of_one(config: AlgorithmConfig) -> None:
    """The same for an environment of Gymnasium's; nothing where the user has connectors of their own.

    Args:
        config: The configuration; it is changed.
    """
    if config._env_to_module_connector or not isinstance(config.env, str) or config.env not in gymnasium.registry:
        return
    env = gymnasium.make(config.env, **config.env_config)
    flatten, of_bytes = needs_flattening(env.observation_space), holds_bytes(env.observation_space)
    env.close()
    if flatten or of_bytes:
        config.env_runners(env_to_module_connector=partial(preparing_one, flatten, of_bytes))


def preparing(
    before: Any, flattened: tuple[Any, ...], of_bytes: tuple[Any, ...], *args: Any, **kwargs: Any
) -> list[Any]:
    """The user's own env-to-module connectors, and those that prepare the observations of several agents."""
    return [
        *(force_list(before(*args, **kwargs)) if before else []),
        *([ScaleBytesOfAgents(agents=of_bytes)] if of_bytes else []),
        *([FlattenObservations(multi_agent=True, agent_ids=list(flattened))] if flattened else []),
    ]


def preparing_one(flatten: bool, of_bytes: bool, *args: Any, **kwargs: Any) -> list[Any]:
    """Those that prepare the observations of the one agent there is."""
    return [*([ScaleBytes()] if of_bytes else []), *([FlattenObservations()] if flatten else [])]


def seen_space(config: AlgorithmConfig, joint: JointSpaces, agent: Any) -> Any:
    """The space of what an agent's module is shown, without its balance."""
    return getattr(config, "prepared_spaces", {}).get(agent, joint.observations[agent])


def filters_for(shape: tuple[int, ...]) -> list[list[Any]]:
    """Convolutions for images of a shape: RLlib's where it has any, else three that fit any size."""
    try:
        return get_filter_config(shape)
    except ValueError:
        return [[16, [4, 4], 2], [32, [4, 4], 2], [64, [4, 4], 2]]
