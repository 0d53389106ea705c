"""Tests of encoders of class maps."""

import gymnasium
import numpy as np
import pytest
import torch
from torch.nn import functional

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.models.class_encoder import ClassEncoder, Embedding, OneHotLinear, num_classes

MAPS = torch.randint(0, 5, (7, 3, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_only_integer_boxes_have_classes():
    assert num_classes(gymnasium.spaces.Box(0, 11, (3, 3), np.uint8)) == 12
    assert num_classes(gymnasium.spaces.Box(0.0, 11.0, (3, 3), np.float32)) is None
    assert num_classes(gymnasium.spaces.Discrete(4)) is None


def test_one_hot_linear_matches_a_layer_on_one_hot_codes():
    layer = OneHotLinear(12, 5, 6)
    expected = functional.one_hot(MAPS.long(), 5).float().flatten(1) @ layer.weight + layer.bias
    torch.testing.assert_close(layer(MAPS), expected)
    with torch.no_grad():
        torch.testing.assert_close(layer(MAPS), expected)


def test_embedding_and_its_gradient_match_pytorch():
    embedding = Embedding(5, 3)
    expected = functional.embedding(MAPS.int(), embedding.weight)
    torch.testing.assert_close(embedding(MAPS), expected)
    with torch.no_grad():
        torch.testing.assert_close(embedding(MAPS), expected)
    output_gradient = torch.randn_like(expected)
    gradient, expected_gradient = (
        torch.autograd.grad(out, embedding.weight, output_gradient)[0] for out in (embedding(MAPS), expected)
    )
    torch.testing.assert_close(gradient, expected_gradient)


def encoder(conv_filters=(), extra=0, hiddens=(8, 6)):
    torch.manual_seed(1)
    return ClassEncoder((3, 4), 5, extra, list(conv_filters), 3, list(hiddens), "tanh")


@pytest.mark.parametrize("conv_filters", [(), (4,), ((4, 2), 5)])
@pytest.mark.parametrize("extra", [0, 2])
def test_outputs_depend_on_every_cell_and_extra_input(conv_filters, extra):
    module = encoder(conv_filters, extra)
    extra_inputs = torch.randn(7, extra) if extra else None
    out = module(MAPS, extra_inputs)
    assert out.shape == (7, module.width) == (7, 6)
    for cell in range(12):
        changed_maps = MAPS.clone()
        changed_maps.view(7, -1)[:, cell] = (changed_maps.view(7, -1)[:, cell] + 1) % 5
        assert (module(changed_maps, extra_inputs) != out).any(1).all()
    if extra:
        assert (module(MAPS, extra_inputs + 1.0) != out).any(1).all()
    out.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())


def test_width_of_convolutions_with_strides():
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
def test_invalid_settings_raise(env, model, complaint):
    with pytest.raises(ValueError, match=complaint):
        ReciprocatorConfig().environment(env).rl_module(model_config=model).validate()
