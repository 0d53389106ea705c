"""Observations with the agent's influence balance in them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rllib_reciprocator.rllib_episodes.encoding import encode, encoded_size, is_class_map
from rllib_reciprocator.rllib_episodes.scaled_bytes import scaled_space


def space_with_balance(space: gymnasium.Space, num_balances: int) -> spaces.Box:
    """The space of observations with a balance between -1 and 1 towards each other agent.

    Three-dimensional boxes, and the planes that maps of classes become, get planes of one value as further channels,
    and bytes become shares of 255; everything else becomes one row of numbers.
    """
    space = scaled_space(space) if is_class_map(space) else space
    if _is_planes(space):
        shape = (*space.shape[:2], space.shape[2] + num_balances)
        low, high = (0.0, 1.0) if space.dtype == np.uint8 else (float(space.low.min()), float(space.high.max()))
        return spaces.Box(min(low, -1.0), max(high, 1.0), shape, np.float32)
    return spaces.Box(-np.inf, np.inf, (encoded_size(space) + num_balances,), np.float32)


def with_balance(space: gymnasium.Space, obs: Any, balances: np.ndarray) -> np.ndarray:
    """One observation with the balances ``[N - 1]`` in it."""
    if _is_planes(space) or is_class_map(space):
        planes = np.broadcast_to(balances, (*space.shape[:2], len(balances)))
        return np.concatenate([_shares(np.asarray(obs)), planes], 2).astype(np.float32)
    return np.concatenate([encode(space, _one(space, obs))[0], balances]).astype(np.float32)


def encode_without_balance(space: gymnasium.Space, obs: np.ndarray, num_balances: int) -> np.ndarray:
    """The observations ``[rows, ..]`` as they were, encoded for an estimator."""
    if _is_planes(space) or is_class_map(space):
        return encode(space, obs[..., :-num_balances])
    return obs[:, :-num_balances]


def _is_planes(space: gymnasium.Space) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 3


def _shares(obs: np.ndarray) -> np.ndarray:
    return obs.astype(np.float32) / 255.0 if obs.dtype == np.uint8 else obs.astype(np.float32)


def _one(space: gymnasium.Space, obs: Any) -> Any:
    """One element, or what was made of it, as a batch of one."""
    if isinstance(obs, np.ndarray):
        return obs[None]
    if isinstance(space, spaces.Dict):
        return {name: _one(part, obs[name]) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_one(part, value) for part, value in zip(space.spaces, obs, strict=True))
    return np.asarray(obs)[None]
