import gymnasium as gym
import numpy as np
import pytest

from rllib_reciprocator.rllib_episodes.encoding import encode, encoded_size
from rllib_reciprocator.rllib_episodes.observed_balance import encode_without_balance, space_with_balance, with_balance

SPACES = {
    "numbers": gym.spaces.Box(-1, 1, (2, 3), np.float32),
    "small planes": gym.spaces.Box(0, 1, (4, 3, 3), np.float32),
    "image": gym.spaces.Box(0, 255, (84, 50, 3), np.uint8),
    "choice": gym.spaces.Discrete(4, start=2),
    "choices": gym.spaces.MultiDiscrete([2, 3]),
    "switches": gym.spaces.MultiBinary(3),
    "dict": gym.spaces.Dict({"a": gym.spaces.Discrete(2), "b": gym.spaces.Box(0, 1, (2,), np.float32)}),
    "tuple": gym.spaces.Tuple([gym.spaces.Discrete(2), gym.spaces.Discrete(3)]),
}


def batch(space, rows):
    elements = [space.sample() for _ in range(rows)]
    if isinstance(space, gym.spaces.Dict):
        return {name: np.array([element[name] for element in elements]) for name in space.spaces}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(np.array([element[k] for element in elements]) for k in range(len(space.spaces)))
    return np.array(elements)


@pytest.mark.parametrize("name", SPACES)
def test_every_space_becomes_rows_of_finite_numbers(name):
    encoding = encode(SPACES[name], batch(SPACES[name], 5))
    assert encoding.shape == (5, encoded_size(SPACES[name]))
    assert encoding.dtype == np.float32
    assert np.isfinite(encoding).all()


def test_choices_by_hand():
    assert encode(SPACES["choice"], np.array([2, 5])).tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]
    assert encode(SPACES["choices"], np.array([[1, 0], [0, 2]])).tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]
    assert encode(SPACES["tuple"], (np.array([1]), np.array([2]))).tolist() == [[0, 1, 0, 0, 1]]
    values = {"a": np.array([1]), "b": np.array([[0.5, 0.25]])}
    assert encode(SPACES["dict"], values).tolist() == [[0, 1, 0.5, 0.25]]


def test_images_are_averaged_over_tiles():
    image = np.zeros((1, 84, 50, 3), np.uint8)
    image[0, :8, :5, 1] = 255  # the first tile: 84 / 11 and 50 / 11, rounded up
    encoding = encode(SPACES["image"], image).reshape(11, 10, 3)
    assert encoding[0, 0].tolist() == [0, 1, 0]
    assert encoding.sum() == 1
    assert encode(SPACES["image"], np.full((2, 84, 50, 3), 255, np.uint8)).min() == 1


def test_unsupported_spaces_are_refused():
    with pytest.raises(ValueError, match="a Text space is not supported"):
        encoded_size(gym.spaces.Text(5))


@pytest.mark.parametrize("name", SPACES)
def test_balance_can_be_removed_again(name):
    space = SPACES[name]
    wide = space_with_balance(space, 2)
    rows = batch(space, 3)
    get_row = {
        "dict": lambda k: {name: values[k] for name, values in rows.items()},
        "tuple": lambda k: tuple(values[k] for values in rows),
    }.get(name, lambda k: rows[k])
    observations = np.stack([with_balance(space, get_row(k), np.array([0.5, -1.0], np.float32)) for k in range(3)])
    assert all(wide.contains(row) for row in observations)
    np.testing.assert_allclose(encode_without_balance(space, observations, 2), encode(space, rows), atol=1e-6)
