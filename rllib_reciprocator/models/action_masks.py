"""Action masks in observations."""

from __future__ import annotations

import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor

ACTION_MASK = "action_mask"
# Setting of modules: index at which the mask starts in a flattened observation.
MASK_START = "mask_start"


def mask_start(observation_space: gymnasium.Space, action_space: gymnasium.Space) -> int | None:
    """Returns the index at which the action mask starts in a flattened observation; None if there is no mask.

    Observations of PettingZoo's classic environments are ``{action_mask, observation}``, where the mask is 1 for each
    legal action.
    """
    if not (isinstance(observation_space, spaces.Dict) and isinstance(action_space, spaces.Discrete)):
        return None
    start = 0
    for name, part in observation_space.spaces.items():
        if name == ACTION_MASK:
            return start if part.shape == (int(action_space.n),) else None
        start += spaces.flatdim(part)
    return None


def masked(logits: Tensor, obs: Tensor, start: int, num_actions: int) -> Tensor:
    """Sets the logits of illegal actions to the lowest finite value, so that these are never sampled.

    Args:
        logits: ``[.., A]``.
        obs: ``[.., width]``, flattened observations.
        start: Index at which the mask starts in them.
        num_actions: Number of actions A.

    Returns:
        Masked logits, ``[.., A]``.
    """
    legal = obs[..., start : start + num_actions] > 0.5
    # No action is legal in padding rows and in observations of agents whose turn it is not; their logits are kept.
    legal = legal | ~legal.any(-1, keepdim=True)
    return torch.where(legal, logits, torch.finfo(logits.dtype).min)
