import pytest
import torch

from rllib_reciprocator.utils.softmax import log_softmax


@pytest.mark.parametrize("shape", [(1, 1), (7, 2), (3, 4, 9)])
def test_outputs_and_gradients_match_pytorch(shape):
    torch.manual_seed(0)
    logits = (10 * torch.randn(shape)).requires_grad_()
    weights = torch.randn(shape)
    gradients = []
    for function in (log_softmax, lambda x: torch.log_softmax(x, -1)):
        out = function(logits)
        torch.testing.assert_close(out, torch.log_softmax(logits, -1))
        gradients.append(torch.autograd.grad((out * weights).sum(), logits)[0])
    torch.testing.assert_close(*gradients)


def test_large_and_equal_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0], [5.0, 5.0, 5.0]], requires_grad=True)
    out = log_softmax(logits)
    assert out.isfinite().all()
    torch.testing.assert_close(out[1], torch.full((3,), 1 / 3).log())
    out.sum().backward()
    assert logits.grad.isfinite().all()
