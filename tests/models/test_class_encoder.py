"""Encoders of maps of classes."""

import gymnasium
import numpy as np
import pytest
import torch
from torch.nn import functional

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.models.class_encoder import ClassEncoder, Embedding, OneHotLinear, num_classes

MAPS = torch.randint(0, 5, (7, 3, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_integers_are_classes_and_other_numbers_are_not():
    assert num_classes(gymnasium.spaces.Box(0, 11, (3, 3), np.uint8)) == 12
    assert num_classes(gymnasium.spaces.Box(0.0, 11.0, (3, 3), np.float32)) is None
    assert num_classes(gymnasium.spaces.Discrete(4)) is None


def test_a_layer_on_classes_is_one_on_their_one_hot_codes():
    layer = OneHotLinear(12, 5, 6)
    expected = functional.one_hot(MAPS.long(), 5).float().flatten(1) @ layer.weight + layer.bias
    torch.testing.assert_close(layer(MAPS), expected)
    with torch.no_grad():
        torch.testing.assert_close(layer(MAPS), expected)


def test_an_embedding_and_its_gradient_are_torchs():
    built = Embedding(5, 3)
    expected = functional.embedding(MAPS.int(), built.weight)
    torch.testing.assert_close(built(MAPS), expected)
    with torch.no_grad():
        torch.testing.assert_close(built(MAPS), expected)
    sent = torch.randn_like(expected)
    ours, torchs = (torch.autograd.grad(out, built.weight, sent)[0] for out in (built(MAPS), expected))
    torch.testing.assert_close(ours, torchs)


def encoder(conv_filters=(), extra=0, hiddens=(8, 6)):
    torch.manual_seed(1)
    return ClassEncoder((3, 4), 5, extra, list(conv_filters), 3, list(hiddens), "tanh")


@pytest.mark.parametrize("conv_filters", [(), (4,), ((4, 2), 5)])
@pytest.mark.parametrize("extra", [0, 2])
def test_every_cell_and_every_number_beside_it_counts(conv_filters, extra):
    built = encoder(conv_filters, extra)
    beside = torch.randn(7, extra) if extra else None
    out = built(MAPS, beside)
    assert out.shape == (7, built.width) == (7, 6)
    for cell in range(12):
        changed = MAPS.clone()
        changed.view(7, -1)[:, cell] = (changed.view(7, -1)[:, cell] + 1) % 5
        assert (built(changed, beside) != out).any(1).all()
    if extra:
        assert (built(MAPS, beside + 1.0) != out).any(1).all()
    out.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in built.parameters())


def test_convolutions_look_around_and_strides_thin_out():
    assert encoder([4], hiddens=[]).width == 4 * 12
    assert encoder([[4, 2]], hiddens=[]).width == 4 * 2 * 2
    with pytest.raises(ValueError, match="fcnet_hiddens: maps of classes need a layer, or conv_filters"):
        encoder(hiddens=[])


@pytest.mark.parametrize(
    ("env", "model", "complaint"),
    [
        ("ipd_v0", {"conv_filters": [4]}, "has observations .2,., not planes x height x width, or a map"),
        ("coins_v0", {"conv_filters": [[4, 2]]}, "strides need maps of classes"),
        ("cleanup_v0", {"conv_filters": [[4, 9]]}, "give output planes, or output planes and a stride up to 4"),
        ("cleanup_v0", {"conv_filters": [[4, 1, 1]]}, "give output planes"),
        ("cleanup_v0", {"conv_filters": [0]}, "give output planes"),
    ],
)
def test_settings_that_do_not_fit_are_said(env, model, complaint):
    with pytest.raises(ValueError, match=complaint):
        ReciprocatorConfig().environment(env).rl_module(model_config=model).validate()
