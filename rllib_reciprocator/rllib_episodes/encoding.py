"""Encoding of observations and actions of any space as flat float vectors, for influence estimators."""

from __future__ import annotations

from math import ceil, prod
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rllib_reciprocator.models.class_encoder import classes_in

# Images are average-pooled to at most this many cells per side: rewards depend on the positions of objects, for which
# a low resolution is enough.
IMAGE_SIDE = 11


def is_image(space: gymnasium.Space) -> bool:
    """Returns True if elements are images: ``[height, width, channels]`` with sides longer than ``IMAGE_SIDE``."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and min(space.shape[:2]) > IMAGE_SIDE


def is_class_map(space: gymnasium.Space) -> bool:
    """Returns True if elements are class maps: ``[height, width]`` uint8 with a maximum below 255."""
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 2
        and int(space.high.max()) < 255
    )


def needs_flattening(space: gymnasium.Space) -> bool:
    """Returns True if observations have to be flattened for RLlib's default models.

    These have layers for vectors, and convolutions for three-dimensional boxes and class maps.
    """
    return not (is_class_map(space) or (isinstance(space, spaces.Box) and len(space.shape) in (1, 3)))


def flat_space(space: gymnasium.Space) -> spaces.Box:
    """Returns the output space of RLlib's connector ``FlattenObservations``.

    Raises:
        ValueError: If elements of the space cannot be encoded.
    """
    return spaces.Box(-np.inf, np.inf, (encoded_size(space),), np.float32)


def encoded_size(space: gymnasium.Space, *, inside: bool = False) -> int:
    """Returns the length of an encoded element of the space.

    Args:
        space: The space.
        inside: If True, the space is a part of a Dict or Tuple space. Images are pooled only if this is False.

    Raises:
        ValueError: If elements of the space cannot be encoded.
    """
    if isinstance(space, spaces.Box):
        if is_image(space) and not inside:
            return ceil(space.shape[0] / _stride(space, 0)) * ceil(space.shape[1] / _stride(space, 1)) * space.shape[2]
        return prod(space.shape) * (classes_in(space) if is_class_map(space) else 1)
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiBinary):
        return prod(space.shape)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, spaces.Dict):
        return sum(encoded_size(part, inside=True) for part in space.spaces.values())
    if isinstance(space, spaces.Tuple):
        return sum(encoded_size(part, inside=True) for part in space.spaces)
    raise ValueError(
        f"env: a {type(space).__name__} space is not supported; convert it in an environment wrapper to Box,"
        " Discrete, MultiDiscrete, MultiBinary, Dict or Tuple"
    )


def encode(space: gymnasium.Space, values: Any, *, inside: bool = False) -> np.ndarray:
    """Encodes a batch of elements of a space.

    Args:
        space: The space.
        values: The elements in RLlib's batched form: arrays ``[rows, ..]`` in the structure of the space. Values that
            RLlib's connector ``FlattenObservations`` has encoded, ``[rows, encoded_size]``, are only cast to float32.
        inside: As for :func:`encoded_size`.

    Returns:
        ``[rows, encoded_size]`` float32. Discrete values and class maps are one-hot encoded, other bytes are scaled to
        [0, 1].
    """
    if (
        isinstance(values, np.ndarray)
        and values.shape[1:] == (encoded_size(space, inside=inside),)
        and values.dtype.kind == "f"
    ):
        return values.astype(np.float32)
    if isinstance(space, spaces.Dict):
        return np.concatenate([encode(part, values[name], inside=True) for name, part in space.spaces.items()], 1)
    if isinstance(space, spaces.Tuple):
        parts = zip(space.spaces, values, strict=True)
        return np.concatenate([encode(part, value, inside=True) for part, value in parts], 1)
    array = np.asarray(values)
    if isinstance(space, spaces.Discrete):
        return np.eye(int(space.n), dtype=np.float32)[array.astype(np.int64) - int(space.start)]
    if isinstance(space, spaces.MultiDiscrete):
        rows = array.reshape(len(array), -1)
        one_hot = [np.eye(int(n), dtype=np.float32)[rows[:, k]] for k, n in enumerate(space.nvec.ravel())]
        return np.concatenate(one_hot, 1)
    if is_class_map(space) and array.dtype == np.uint8:
        return np.eye(classes_in(space), dtype=np.float32)[array].reshape(len(array), -1)
    numbers = array.astype(np.float32)
    if array.dtype == np.uint8:
        numbers /= 255.0
    if is_image(space) and not inside:
        for axis in (0, 1):
            stride = _stride(space, axis)
            starts = np.arange(0, space.shape[axis], stride)
            sums = np.add.reduceat(numbers, starts, axis + 1)
            counts = np.diff(np.append(starts, space.shape[axis])).reshape(
                [-1 if k == axis + 1 else 1 for k in range(4)]
            )
            numbers = (sums / counts).astype(np.float32)
    return numbers.reshape(len(numbers), -1)


def _stride(space: spaces.Box, axis: int) -> int:
    return ceil(space.shape[axis] / IMAGE_SIDE)
