"""Gradient of a giver's loss with respect to incentives, through the policy step of their recipient.

Incentives enter the recipient's step linearly. With ``theta_j' = theta_j + size * sum over t of A_j,t grad log
pi_j(a_t | o_t)`` and the loss of giver i on a rollout sampled with these policies, ``loss_i``,

    ``d loss_i / d A_j,t = size * c[i -> j]_t,  c[i -> j]_t = grad_theta_j log pi_j(a_t | o_t) . d loss_i / d theta_j'``

and an incentive in step s adds to the advantages of all steps up to s, with the recipient's discount. Therefore no
graph through the step is needed, gradients can be averaged over learners, and any number of givers have separate
losses.

Source: Yang et al. (2020), equation 6, whose code differentiates through the step instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rllib_reciprocator.utils.distributed import sum_over_learners


def gradients(outputs: Tensor, parameters: Sequence[Tensor], weights: Tensor) -> list[list[Tensor]]:
    """Computes the gradients of several weighted sums of outputs.

    Args:
        outputs: ``[rows]``, with a graph.
        parameters: Parameters to differentiate by.
        weights: ``[sums, rows]``, the weights of each sum.

    Returns:
        For each sum the gradient, one tensor per parameter.
    """
    result = []
    for row in weights:
        partial = torch.autograd.grad(outputs, parameters, row, retain_graph=True, allow_unused=True)
        result.append([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, partial, strict=True)])
    return result


def directional(
    function: Callable[[], Tensor], parameters: Sequence[Tensor], directions: Sequence[Sequence[Tensor]]
) -> list[Tensor]:
    """Computes the directional derivatives of a function's outputs (Jacobian-vector products).

    Runs one backward pass and a second one per direction. On small networks this is faster than forward mode, and every
    layer supports it.

    Args:
        function: Returns ``[rows]``.
        parameters: Parameters that the function depends on.
        directions: Directions in the space of parameters, each with one tensor per parameter.

    Returns:
        For each direction the derivatives, ``[rows]``.
    """
    with torch.backends.cudnn.flags(enabled=False):  # cuDNN's recurrent layers have no second backward pass
        outputs = function()
        dual = torch.zeros_like(outputs, requires_grad=True)
        # The gradient is linear in `dual`, so that its derivative by `dual` is the Jacobian-vector product.
        gradient = torch.autograd.grad(outputs, parameters, dual, create_graph=True, allow_unused=True)
        used_indices = [k for k, part in enumerate(gradient) if part is not None]
        derivatives = []
        for direction in directions:
            vector = [direction[k] for k in used_indices]
            (derivative,) = torch.autograd.grad([gradient[k] for k in used_indices], dual, vector, retain_graph=True)
            derivatives.append(derivative)
    return derivatives


def incentive_derivatives(credit: Tensor, decay: Tensor, is_first: Tensor) -> Tensor:
    """Converts derivatives of the givers' losses by advantages into derivatives by rewards.

    ``result_s = sum over t <= s of decay^(s - t) * credit_t``, over the steps of an episode.

    Args:
        credit: ``[B, T, N, N]`` by ``[i, j]``, derivatives of giver i's loss by j's advantages; zero after the end of
            an episode.
        decay: ``[N]`` or ``[B, T, N]``, of each recipient: the discount, times lambda if it has a critic.
        is_first: ``[B, T]`` bool, True in the first step of an episode.

    Returns:
        ``[B, T, N, N]`` by ``[i, j]``, derivatives of giver i's loss by j's rewards.
    """
    result, running = torch.empty_like(credit), torch.zeros_like(credit[:, 0])
    for t in range(credit.shape[1]):
        running = torch.where(is_first[:, t, None, None], 0.0, running)
        running = (decay if decay.dim() == 1 else decay[:, t, None]) * running + credit[:, t]
        result[:, t] = running
    return result


def orthogonal(direction: Sequence[Tensor], unit: Sequence[Tensor]) -> list[Tensor]:
    """Returns the component of a direction orthogonal to a unit vector; the direction itself if that vector is zero.

    A clipped gradient has a fixed norm, so that a change of the gradient changes the step only by its component
    orthogonal to the gradient: ``d (c g / |g|) = c / |g| * (dg - u (u . dg))`` with ``u = g / |g|``.

    Args:
        direction: One tensor per parameter.
        unit: The unit vector, with the same shapes.
    """
    along = sum((part * part_of_unit).sum() for part, part_of_unit in zip(direction, unit, strict=True))
    return [part - along * part_of_unit for part, part_of_unit in zip(direction, unit, strict=True)]


def through_standardization(credit: Tensor, standardized: Tensor, scale: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the derivatives of a loss by values, given those by the standardized values, ``[rows]``.

    Args:
        credit: ``[rows]``, derivatives by the standardized values; zero where the mask is false.
        standardized: ``[rows]``, the standardized values; the statistics are over all learners.
        scale: Standard deviation of the values before standardization.
        mask: ``[rows]`` bool, the values that the statistics were taken over; all of them if None.
    """
    weights = torch.ones_like(credit) if mask is None else mask.to(credit.dtype)
    sums = torch.stack([credit.sum(), (credit * standardized * weights).sum(), weights.sum()])
    total, correlation, count = sum_over_learners(sums)
    return (credit - (total + standardized * correlation) / count) / scale * weights
