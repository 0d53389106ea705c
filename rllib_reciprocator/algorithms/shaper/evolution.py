"""Evolution strategies: perturbations of parameters, and the gradient that is estimated from what they get.

Source: Salimans et al. (2017), algorithm 2, with mirrored perturbations.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mirrored_noise(seed: int, groups: int, agents: int, size: int) -> Tensor:
    """Standard normal noise of groups and the agents in them, of which the groups 2k and 2k + 1 have opposite ones.

    Each agent has its own: it is to be told what comes of its own perturbation, not of those of the others.

    Args:
        seed: The same seed gives the same noise, in whatever process.
        groups: How many groups there are; the last of an odd number has no opposite.
        agents: Agents of a group.
        size: How many parameters there are.

    Returns:
        ``[groups * agents, size]`` on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randn(-(-groups // 2), agents, size, generator=generator)
    return torch.stack([pairs, -pairs], 1).flatten(0, 1)[:groups].flatten(0, 1)


def expected_fitness(parameters: Tensor, noise: Tensor, fitness: Tensor, sigma: Tensor) -> Tensor:
    """A sum whose gradient is the estimate of that of the expected fitness, times how many members there are.

    Args:
        parameters: ``[size]``, the mean of all members.
        noise: ``[members, size]``.
        fitness: ``[members]``, of ``parameters + sigma * noise``.
        sigma: A scalar.

    Returns:
        A scalar.
    """
    return (fitness / sigma) @ (noise @ parameters)
