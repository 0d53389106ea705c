"""Evolution strategies: perturbations of parameters, and the gradient estimate from their fitness.

Source: Salimans et al. (2017), algorithm 2, with mirrored perturbations.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mirrored_noise(seed: int, groups: int, agents: int, size: int) -> Tensor:
    """Samples standard normal noise for the agents of all groups; groups 2k and 2k + 1 have opposite signs.

    Each agent has its own noise, so that its fitness is that of its own perturbation and not of its co-players'.

    Args:
        seed: Seed of the noise. The same seed gives the same noise in every process.
        groups: Number of groups. If it is odd, the last group has no mirrored group.
        agents: Number of agents per group.
        size: Number of parameters.

    Returns:
        Noise, ``[groups * agents, size]``, on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randn(-(-groups // 2), agents, size, generator=generator)
    return torch.stack([pairs, -pairs], 1).flatten(0, 1)[:groups].flatten(0, 1)


def expected_fitness(parameters: Tensor, noise: Tensor, fitness: Tensor, sigma: Tensor) -> Tensor:
    """Returns a scalar whose gradient is the estimated gradient of the expected fitness, times the number of members.

    Args:
        parameters: ``[size]``, the mean of the population.
        noise: ``[members, size]``.
        fitness: ``[members]``, fitness of ``parameters + sigma * noise``.
        sigma: Scalar, standard deviation of the perturbations.

    Returns:
        A scalar.
    """
    return (fitness / sigma) @ (noise @ parameters)
