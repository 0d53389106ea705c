"""Layers of estimators' networks."""

import pytest
import torch
from torch.nn import functional

from rllib_reciprocator.intrinsic.reciprocity.estimators.networks import JointActionNetwork
from rllib_reciprocator.models import stacked
from rllib_reciprocator.models.stacked import StackedOneHotLinear


@pytest.mark.parametrize("written_out", [0, 2**20])
def test_classes_are_as_if_one_hot(monkeypatch, written_out):
    """Values and gradients are those of a layer on one-hot classes, whether it writes them out or not."""
    monkeypatch.setattr(stacked, "CELLS_WRITTEN_OUT", written_out)
    torch.manual_seed(0)
    copies, rows, cells, classes, outputs = 3, 5, 4, 7, 6
    layer = StackedOneHotLinear(copies, cells, classes, 2, outputs)
    seen = torch.randint(classes, (copies, rows, cells))
    numbers = torch.randn(copies, rows, 2)
    found = layer(torch.cat([seen, numbers], 2))
    weight = layer.weight.view(copies, cells * classes, outputs)
    expected = functional.one_hot(seen, classes).float().flatten(2) @ weight + layer.numbers(numbers)
    torch.testing.assert_close(found, expected)
    sent = torch.randn_like(found)
    by_layer, by_product = (torch.autograd.grad(out, layer.weight, sent)[0] for out in (found, expected))
    torch.testing.assert_close(by_layer, by_product)


def test_alternatives_are_what_other_joint_actions_give():
    torch.manual_seed(1)
    network = JointActionNetwork(1, StackedOneHotLinear(1, 4, 7, 1, 8), 3, 2, [8, 8], 3)
    inputs = torch.cat([torch.randint(7, (1, 5, 4)), torch.rand(1, 5, 1)], 2)
    actions = torch.randint(2, (1, 5, 3))
    found = network.alternatives(inputs, actions)
    for agent in range(3):
        for action in range(2):
            other = actions.clone()
            other[..., agent] = action
            torch.testing.assert_close(found[:, :, agent, action], network(inputs, other))


def test_classes_alone_have_a_bias():
    torch.manual_seed(0)
    layer = StackedOneHotLinear(2, 3, 4, 0, 5)
    seen = torch.randint(4, (2, 6, 3)).float()
    with torch.no_grad():
        found = layer(seen)
        layer.bias += 1.0
        torch.testing.assert_close(layer(seen), found + 1.0)
