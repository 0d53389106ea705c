"""Meta-episodes: inner episodes between which players learn inside the environment, in groups of copies of a game."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rllib_reciprocator.utils.settings import Settings


class MetaSettings(Settings):
    """How meta-episodes are made up; used where somebody learns between inner episodes.

    Attributes:
        inner_episodes: Inner episodes of a meta-episode, after each of which these players learn.
        copies: Copies of a game in a group, in all of which the same such player plays, and from which it learns.
    """

    inner_episodes: Annotated[int, Field(ge=1, le=100_000)] = 10
    copies: Annotated[int, Field(ge=1, le=1_000_000)] = 8
