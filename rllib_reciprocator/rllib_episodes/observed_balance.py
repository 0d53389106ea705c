"""Observations extended by the agent's influence balance."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rllib_reciprocator.rllib_episodes.encoding import encode, encoded_size, is_class_map
from rllib_reciprocator.rllib_episodes.scaled_bytes import scaled_space


def space_with_balance(space: gymnasium.Space, num_balances: int) -> spaces.Box:
    """Returns the observation space extended by one balance, between -1 and 1, for each other agent.

    Three-dimensional boxes, and class maps after one-hot encoding, are extended by one constant channel per balance,
    and bytes are scaled to [0, 1]. Observations of all other spaces are flattened.

    Args:
        space: The original observation space.
        num_balances: Number of balances, N - 1.
    """
    space = scaled_space(space) if is_class_map(space) else space
    if _is_planes(space):
        shape = (*space.shape[:2], space.shape[2] + num_balances)
        low, high = (0.0, 1.0) if space.dtype == np.uint8 else (float(space.low.min()), float(space.high.max()))
        return spaces.Box(min(low, -1.0), max(high, 1.0), shape, np.float32)
    return spaces.Box(-np.inf, np.inf, (encoded_size(space) + num_balances,), np.float32)


def with_balance(space: gymnasium.Space, obs: object, balances: np.ndarray) -> np.ndarray:
    """Returns a single observation extended by the balances, ``[N - 1]``."""
    if _is_planes(space) or is_class_map(space):
        planes = np.broadcast_to(balances, (*space.shape[:2], len(balances)))
        return np.concatenate([_shares(np.asarray(obs)), planes], 2).astype(np.float32)
    return np.concatenate([encode(space, _add_batch_axis(space, obs))[0], balances]).astype(np.float32)


def encode_without_balance(space: gymnasium.Space, obs: np.ndarray, num_balances: int) -> np.ndarray:
    """Removes the balances from a batch of observations ``[rows, ..]`` and encodes the rest for an estimator."""
    if _is_planes(space) or is_class_map(space):
        return encode(space, obs[..., :-num_balances])
    return obs[:, :-num_balances]


def _is_planes(space: gymnasium.Space) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 3


def _shares(obs: np.ndarray) -> np.ndarray:
    return obs.astype(np.float32) / 255.0 if obs.dtype == np.uint8 else obs.astype(np.float32)


def _add_batch_axis(space: gymnasium.Space, obs: Any) -> Any:
    """Adds a batch axis of length 1 to a single observation, which is an element of the space or encoded already."""
    if isinstance(obs, np.ndarray):
        return obs[None]
    if isinstance(space, spaces.Dict):
        return {name: _add_batch_axis(part, obs[name]) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_add_batch_axis(part, value) for part, value in zip(space.spaces, obs, strict=True))
    return np.asarray(obs)[None]
