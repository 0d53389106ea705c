"""Fast log-softmax for few actions."""

from __future__ import annotations

from torch import Tensor


def log_softmax(logits: Tensor) -> Tensor:
    """Computes ``torch.log_softmax`` over the last axis, several times faster on a CPU if that axis is short.

    PyTorch's implementation processes one row after the other; here every operation is vectorized over all rows.

    Args:
        logits: Logits, ``[.., A]``.

    Returns:
        Log-probabilities, ``[.., A]``.
    """
    relative_logits = logits - logits.detach().amax(-1, keepdim=True)
    return relative_logits - relative_logits.exp().sum(-1, keepdim=True).log()
