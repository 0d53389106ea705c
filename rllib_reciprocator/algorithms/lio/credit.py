"""What an incentive is worth to its giver, through the policy step that its recipient takes.

Incentives enter the recipient's step linearly. With ``theta_j' = theta_j + size * sum over t of A_j,t grad log
pi_j(a_t | o_t)`` and giver i's loss on what is sampled with these policies, ``loss_i``,

    ``d loss_i / d A_j,t = size * c[i -> j]_t,  c[i -> j]_t = grad_theta_j log pi_j(a_t | o_t) . d loss_i / d theta_j'``

and an incentive in step s adds to the advantages of all steps up to it, with the recipient's discount. So no graph goes
through the step, gradients can be averaged over learners, and each giver has a loss of its own for any number of them.

Source: Yang et al. (2020), equation 6, whose code differentiates through the step instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rllib_reciprocator.utils.distributed import sum_over_learners


def gradients(outputs: Tensor, parameters: Sequence[Tensor], weights: Tensor) -> list[list[Tensor]]:
    """For each of some weights the gradient of the weighted sum of outputs.

    Args:
        outputs: ``[rows]``, with a graph.
        parameters: What it depends on.
        weights: ``[weights, rows]``.
    """
    found = []
    for each in weights:
        of_each = torch.autograd.grad(outputs, parameters, each, retain_graph=True, allow_unused=True)
        found.append([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, of_each, strict=True)])
    return found


def directional(
    function: Callable[[], Tensor], parameters: Sequence[Tensor], directions: Sequence[Sequence[Tensor]]
) -> list[Tensor]:
    """How what a function puts out changes along some directions of its parameters, each ``[rows]``.

    Two backward passes, of which the second is for each direction: on small networks they are faster than one forward
    pass with dual numbers, and every layer has them.

    Args:
        function: Puts out ``[rows]``.
        parameters: What it depends on.
        directions: Each of the parameters' shapes.
    """
    with torch.backends.cudnn.flags(enabled=False):  # whose recurrent layers have no second backward pass
        outputs = function()
        dual = torch.zeros_like(outputs, requires_grad=True)
        found = torch.autograd.grad(outputs, parameters, dual, create_graph=True, allow_unused=True)
        used = [k for k, each in enumerate(found) if each is not None]
        changes = []
        for direction in directions:
            along = [direction[k] for k in used]
            (change,) = torch.autograd.grad([found[k] for k in used], dual, along, retain_graph=True)
            changes.append(change)
    return changes


def worth_of_incentives(credit: Tensor, decay: Tensor) -> Tensor:
    """From what advantages are worth in each step to what rewards are.

    ``worth_s = sum over t <= s of decay^(s - t) * credit_t``

    Args:
        credit: ``[B, T, N, N]`` by ``[i, j]``, to giver i of j's advantages; zero after the end of an episode.
        decay: ``[N]`` or ``[B, T, N]``, of each recipient: discount, times lambda where it has a critic.

    Returns:
        Of the same shape.
    """
    worth, running = torch.empty_like(credit), torch.zeros_like(credit[:, 0])
    for t in range(credit.shape[1]):
        running = (decay if decay.dim() == 1 else decay[:, t, None]) * running + credit[:, t]
        worth[:, t] = running
    return worth


def orthogonal(direction: Sequence[Tensor], unit: Sequence[Tensor]) -> list[Tensor]:
    """Returns the part of a direction of parameters that is orthogonal to a unit vector, or to nothing if it is zero.

    A gradient that was clipped has a fixed norm, so that what changes it moves the parameters along its orthogonal part
    alone: ``d (c g / |g|) = c / |g| * (dg - u (u . dg))`` with ``u = g / |g|``.

    Args:
        direction: A tensor for each parameter.
        unit: The unit vector, of the same shapes.
    """
    along = sum((part * part_of_unit).sum() for part, part_of_unit in zip(direction, unit, strict=True))
    return [part - along * part_of_unit for part, part_of_unit in zip(direction, unit, strict=True)]


def through_standardization(credit: Tensor, standardized: Tensor, scale: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the derivatives of a loss by values from those by the standardised values, ``[rows]``.

    Args:
        credit: ``[rows]``, derivatives by the standardised values; zero where the mask is false.
        standardized: ``[rows]``, the standardised values, over all learners.
        scale: Their standard deviation before.
        mask: ``[rows]`` bool, the values that counted; all of them if None.
    """
    weights = torch.ones_like(credit) if mask is None else mask.to(credit.dtype)
    sums = torch.stack([credit.sum(), (credit * standardized * weights).sum(), weights.sum()])
    total, correlation, count = sum_over_learners(sums)
    return (credit - (total + standardized * correlation) / count) / scale * weights
