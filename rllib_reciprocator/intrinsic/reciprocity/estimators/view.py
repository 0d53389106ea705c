"""Views that influence estimators have of the environments."""

from __future__ import annotations

import gymnasium
import numpy as np
from torch import Tensor

from social_dilemmas.batched_game import BatchedGame

STATE, OBSERVATIONS, OWN = "state", "observations", "own"


def view_space(game: BatchedGame, sees: str) -> gymnasium.Space:
    """Returns the space of an estimator's view of one environment.

    Args:
        game: The game.
        sees: ``state``; ``observations``, those of all agents; or ``own``, that of each agent alone.

    Raises:
        ValueError: If ``sees`` is ``own``, but agents cannot infer the observations of the others (``fully_observed``).
    """
    if sees == STATE:
        return game.state_space
    space = game.observation_space
    if sees == OBSERVATIONS:
        low, high = (np.stack([bound] * game.num_agents) for bound in (space.low, space.high))
        return gymnasium.spaces.Box(low, high, dtype=space.dtype)
    if not game.fully_observed:
        raise ValueError("own needs an environment in which agents can infer the others' views (fully_observed)")
    return space


def view(game: BatchedGame, obs: Tensor, sees: str, state: Tensor | None) -> Tensor:
    """Returns an estimator's view of all environments.

    Args:
        game: The game.
        obs: ``[B, N, *obs_shape]``, current observations of the agents.
        sees: View of the estimator, as in :func:`view_space`.
        state: ``[B, *state_shape]``, current joint state; required if ``sees`` is ``state``.

    Returns:
        ``[B, *state_shape]``, ``[B, N, *obs_shape]``, or for ``own`` ``[B, N, N, *obs_shape]`` by ``[i, k]``:
        observation of the k-th agent after i, as inferred by agent i.
    """
    if sees == STATE:
        assert state is not None
        return state
    return obs if sees == OBSERVATIONS else game.views(obs)
