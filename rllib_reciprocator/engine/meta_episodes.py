"""Meta-episodes: sequences of inner episodes between which online learners are updated, in groups of environments."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rllib_reciprocator.utils.settings import Settings


class MetaSettings(Settings):
    """Settings of meta-episodes, used with online learners and recurrent policies that keep their state.

    Attributes:
        inner_episodes: Number of inner episodes in a meta-episode. Online learners are updated after each of them.
        copies: Number of environments in a group, which share their online learners, trained on all of them, or a
            credit or fitness estimate.
        population: Number of separately parameterized players that a player stands for. With more than one, no player
            controls two agents of an environment: each plays with the other players, never with itself.
    """

    inner_episodes: Annotated[int, Field(ge=1, le=100_000)] = 10
    copies: Annotated[int, Field(ge=1, le=1_000_000)] = 8
    population: Annotated[int, Field(ge=1, le=64)] = 1
