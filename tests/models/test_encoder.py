import pytest
import torch
from torch.nn import functional

from rllib_reciprocator.models.encoder import CircularConvolution, encoder


@pytest.mark.parametrize("grid", [(3, 3), (4, 5), (2, 3), (1, 4)])
def test_equals_convolving_padded_planes(grid):
    height, width = grid
    layer = CircularConvolution(3, 2, grid)
    planes = torch.randn(7, 3, height, width)
    # Planes narrower than the kernel are laid out by hand: PyTorch pads by at most one whole turn.
    rows = torch.arange(-1, height + 1) % height
    columns = torch.arange(-1, width + 1) % width
    padded = planes[:, :, rows][:, :, :, columns]
    expected = functional.conv2d(padded, layer.kernel.view(2, 3, 3, 3), layer.bias[:, 0])
    torch.testing.assert_close(layer(planes.flatten(1)).view_as(expected), expected, atol=1e-5, rtol=1e-4)


def test_gradients_reach_kernel_and_bias():
    layer = CircularConvolution(2, 3, (3, 3))
    layer(torch.randn(4, 18)).square().sum().backward()
    assert layer.kernel.grad.abs().sum() > 0
    assert layer.bias.grad.abs().sum() > 0


def test_shifting_the_torus_shifts_the_outputs():
    layer = CircularConvolution(2, 3, (3, 4))
    planes = torch.randn(5, 2, 3, 4)
    moved = layer(planes.roll((1, 2), (2, 3)).flatten(1)).view(5, 3, 3, 4)
    torch.testing.assert_close(moved, layer(planes.flatten(1)).view(5, 3, 3, 4).roll((1, 2), (2, 3)))


def test_widths():
    convolutions, connected, width = encoder((4, 3, 3), 1, [8, 8], [32], "relu")
    assert width == 32
    features = convolutions(torch.randn(6, 36))
    assert features.shape == (6, 72)
    assert connected(torch.cat([features, torch.randn(6, 1)], 1)).shape == (6, 32)
    assert encoder((2,), 0, [], [], "relu")[2] == 2
