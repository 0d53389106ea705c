"""Tests of statistics over learners, on one learner."""

import torch

from rllib_reciprocator.utils.distributed import deviation


def test_deviation_of_no_values_is_finite():
    assert torch.isfinite(deviation(torch.zeros(0), (0,))).all()
    masked_deviation = deviation(torch.ones(3, 2), (0,), torch.zeros(3, 2, dtype=torch.bool))
    assert torch.isfinite(masked_deviation).all()


def test_deviation_of_masked_values():
    values, mask = torch.tensor([1.0, 3.0, 100.0]), torch.tensor([True, True, False])
    torch.testing.assert_close(deviation(values, (0,), mask), torch.tensor([1.0]))
