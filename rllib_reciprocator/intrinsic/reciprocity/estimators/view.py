"""What an influence estimator sees of the games."""

from __future__ import annotations

import gymnasium
import numpy as np
from torch import Tensor

from social_dilemmas.batched_game import BatchedGame

STATE, OBSERVATIONS, OWN = "state", "observations", "own"


def view_space(game: BatchedGame, sees: str) -> gymnasium.Space:
    """The space of one estimator's view of one copy.

    Args:
        game: The game.
        sees: ``state``; ``observations``, those of all agents; or ``own``, those of one agent for itself.

    Raises:
        ValueError: If agents would have to see for themselves in a game that does not tell them what others see.
    """
    if sees == STATE:
        return game.state_space
    space = game.observation_space
    if sees == OBSERVATIONS:
        low, high = (np.stack([bound] * game.num_agents) for bound in (space.low, space.high))
        return gymnasium.spaces.Box(low, high, dtype=space.dtype)
    if not game.fully_observed:
        raise ValueError("own needs a game in which each agent can tell what the others see (fully_observed)")
    return space


def view(game: BatchedGame, obs: Tensor, sees: str, state: Tensor | None) -> Tensor:
    """What an estimator sees of all copies.

    Args:
        game: The game.
        obs: ``[B, N, *obs_shape]``, the agents' observations now.
        sees: As for :func:`view_space`.
        state: ``[B, *state_shape]``, the joint state now, if it is asked for.

    Returns:
        ``[B, *state_shape]``, ``[B, N, *obs_shape]``, or for ``own`` ``[B, N, N, *obs_shape]`` by ``[i, k]``: what
        agent i takes the k-th after it to see.
    """
    if sees == STATE:
        assert state is not None
        return state
    return obs if sees == OBSERVATIONS else game.views(obs)
