"""Which actions are legal, where observations say so."""

from __future__ import annotations

import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor

ACTION_MASK = "action_mask"
# Setting of modules: where the mask begins in a flattened observation.
MASK_START = "mask_start"


def mask_start(observation_space: gymnasium.Space, action_space: gymnasium.Space) -> int | None:
    """Where the action mask begins in a flattened observation; None if there is none.

    PettingZoo's classic games show ``{action_mask, observation}``: for each of the discrete actions 1 if it is legal.
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
    """Logits ``[.., A]`` of which those of illegal actions are so low that they are never drawn.

    Args:
        logits: ``[.., A]``.
        obs: ``[.., width]``, flattened observations.
        start: Where the mask begins in them.
        num_actions: A.
    """
    legal = obs[..., start : start + num_actions] > 0.5
    # Rows that pad a sequence allow nothing, and so do observations of who is not to move: there all is as it was.
    legal = legal | ~legal.any(-1, keepdim=True)
    return torch.where(legal, logits, torch.finfo(logits.dtype).min)
