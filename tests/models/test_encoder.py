import pytest
import torch
from torch import nn
from torch.nn import functional

from rllib_reciprocator.models.encoder import MIN_ROWS_TO_COMPARE, CircularConvolution, DistinctRows, Encoder


@pytest.mark.parametrize("grid", [(3, 3), (4, 5), (2, 3), (1, 4)])
def test_matches_convolutions_of_padded_planes(grid):
    height, width = grid
    layer = CircularConvolution(3, 2, grid)
    planes = torch.randn(7, 3, height, width)
    # Planes narrower than the kernel are padded by indexing: circular padding of PyTorch wraps around at most once.
    rows = torch.arange(-1, height + 1) % height
    columns = torch.arange(-1, width + 1) % width
    padded_planes = planes[:, :, rows][:, :, :, columns]
    expected = functional.conv2d(padded_planes, layer.kernel.view(2, 3, 3, 3), layer.bias[:, 0])
    torch.testing.assert_close(layer(planes.flatten(1)).view_as(expected), expected, atol=1e-5, rtol=1e-4)


def test_gradients_reach_kernel_and_bias():
    layer = CircularConvolution(2, 3, (3, 3))
    layer(torch.randn(4, 18)).square().sum().backward()
    assert layer.kernel.grad.abs().sum() > 0
    assert layer.bias.grad.abs().sum() > 0


def test_shifting_the_torus_shifts_the_outputs():
    layer = CircularConvolution(2, 3, (3, 4))
    planes = torch.randn(5, 2, 3, 4)
    shifted_outputs = layer(planes.roll((1, 2), (2, 3)).flatten(1)).view(5, 3, 3, 4)
    torch.testing.assert_close(shifted_outputs, layer(planes.flatten(1)).view(5, 3, 3, 4).roll((1, 2), (2, 3)))


def test_widths():
    encoder = Encoder((4, 3, 3), 1, [8, 8], [32], "relu")
    assert encoder.width == 32
    assert encoder(torch.randn(6, 4, 3, 3), torch.randn(6, 1)).shape == (6, 32)
    assert Encoder((4, 3, 3), 0, [8], [], "relu")(torch.randn(6, 4, 3, 3)).shape == (6, 72)
    assert Encoder((2,), 0, [], [], "relu").width == 2


def count_rows(layers):
    """Returns the wrapped layers, and the number of rows of each of their forward passes."""
    rows = []
    layers.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    return DistinctRows(layers, 6), rows


@pytest.mark.parametrize("distinct", [1, 50])
def test_repeated_rows_are_computed_once(distinct):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 5), nn.Tanh())
    distinct_rows, row_counts = count_rows(layers)
    rows = torch.randn(distinct, 6)[torch.randint(distinct, (MIN_ROWS_TO_COMPARE,))]
    weights = torch.randn(MIN_ROWS_TO_COMPARE, 5)
    gradients = []
    for module in (distinct_rows, layers):
        out = module(rows)
        gradients.append(torch.autograd.grad((out * weights).sum(), list(layers.parameters())))
        torch.testing.assert_close(out, layers(rows), atol=1e-6, rtol=1e-5)
    assert row_counts[0] == distinct
    for gradient, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("case", ["few", "all differ", "not a number", "same mark"])
def test_all_rows_are_computed_without_repetition(case):
    distinct_rows, row_counts = count_rows(nn.Linear(6, 5))
    rows = torch.randn(MIN_ROWS_TO_COMPARE, 6)
    if case == "few":
        rows = rows[:100] * 0.0
    if case == "not a number":
        rows = torch.full_like(rows, float("nan"))
    if case == "same mark":
        distinct_rows._mark.zero_()
    out = distinct_rows(rows)
    assert row_counts == [len(rows)]
    torch.testing.assert_close(out, distinct_rows.layers(rows), equal_nan=True)
