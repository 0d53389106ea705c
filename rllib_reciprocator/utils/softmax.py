"""Log-probabilities over a few choices."""

from __future__ import annotations

from torch import Tensor


def log_softmax(logits: Tensor) -> Tensor:
    """``torch.log_softmax`` over the last axis, several times faster on a CPU where that axis is short.

    PyTorch's own goes along the axis one row after the other; here every operation goes over all rows at once.

    Args:
        logits: ``[.., A]``.

    Returns:
        Log-probabilities of the same shape.
    """
    shifted = logits - logits.detach().amax(-1, keepdim=True)
    return shifted - shifted.exp().sum(-1, keepdim=True).log()
