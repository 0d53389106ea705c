"""The contract of an influence estimator."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor


class Transition(NamedTuple):
    """What an estimator may see of one or more joint steps.

    Attributes:
        state: ``[.., *state_shape]``, the joint state before the step.
        actions: ``[.., N]`` int64.
        rewards: ``[.., N]`` float32, extrinsic.
    """

    state: Tensor
    actions: Tensor
    rewards: Tensor


class InfluenceEstimator(TorchRLModule):
    """Says how much each agent's action was worth to each agent.

    An RLModule, so that RLlib places it on the learner's device, copies it to the env runners with the policies, and
    writes it into checkpoints. Its observation space is the game's state space.
    """

    @abstractmethod
    def influence(self, transition: Transition) -> Tensor:
        """The influence of each agent on each in these steps, ``[.., N, N]`` by ``[j, i]``; without gradient."""

    @abstractmethod
    def fit(self, transition: Transition, iteration: int) -> dict[str, float]:
        """Learns from the steps of one iteration, the same on all learners.

        Args:
            transition: Steps of this learner's share of the games, ``[rows, ..]``.
            iteration: The iteration, from 0.

        Returns:
            What to report, by name.
        """
