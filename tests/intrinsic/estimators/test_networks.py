"""Tests of the layers of estimator networks."""

import pytest
import torch
from torch.nn import functional

from rllib_reciprocator.intrinsic.reciprocity.estimators.networks import JointActionNetwork
from rllib_reciprocator.models import stacked
from rllib_reciprocator.models.stacked import StackedOneHotLinear


@pytest.mark.parametrize("written_out", [0, 2**20])
def test_class_inputs_equal_one_hot_inputs(monkeypatch, written_out):
    """Compares values and gradients with a layer on one-hot inputs, with and without building these inputs."""
    monkeypatch.setattr(stacked, "CELLS_WRITTEN_OUT", written_out)
    torch.manual_seed(0)
    copies, rows, cells, classes, outputs = 3, 5, 4, 7, 6
    layer = StackedOneHotLinear(copies, cells, classes, 2, outputs)
    class_inputs = torch.randint(classes, (copies, rows, cells))
    numbers = torch.randn(copies, rows, 2)
    result = layer(torch.cat([class_inputs, numbers], 2))
    weight = layer.weight.view(copies, cells * classes, outputs)
    expected = functional.one_hot(class_inputs, classes).float().flatten(2) @ weight + layer.numbers(numbers)
    torch.testing.assert_close(result, expected)
    output_gradients = torch.randn_like(result)
    layer_gradients, product_gradients = (
        torch.autograd.grad(out, layer.weight, output_gradients)[0] for out in (result, expected)
    )
    torch.testing.assert_close(layer_gradients, product_gradients)


def test_alternatives_equal_outputs_of_other_joint_actions():
    torch.manual_seed(1)
    network = JointActionNetwork(1, StackedOneHotLinear(1, 4, 7, 1, 8), 3, 2, [8, 8], 3)
    inputs = torch.cat([torch.randint(7, (1, 5, 4)), torch.rand(1, 5, 1)], 2)
    actions = torch.randint(2, (1, 5, 3))
    alternatives = network.alternatives(inputs, actions)
    for agent in range(3):
        for action in range(2):
            joint_actions = actions.clone()
            joint_actions[..., agent] = action
            torch.testing.assert_close(alternatives[:, :, agent, action], network(inputs, joint_actions))


def test_layer_without_numbers_has_a_bias():
    torch.manual_seed(0)
    layer = StackedOneHotLinear(2, 3, 4, 0, 5)
    class_inputs = torch.randint(4, (2, 6, 3)).float()
    with torch.no_grad():
        outputs = layer(class_inputs)
        layer.bias += 1.0
        torch.testing.assert_close(layer(class_inputs), outputs + 1.0)
