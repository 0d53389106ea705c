"""The contract of an influence estimator."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium
import torch
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor


class Transition(NamedTuple):
    """What an estimator may see of one or more joint steps.

    Attributes:
        state: ``[.., *shape]``, what the estimator sees before the step: the joint state, or observations.
        actions: ``[.., N]`` int64.
        rewards: ``[.., N]`` float32, extrinsic.
        time_left: ``[..]`` float32, share of the episode's steps that are still to come, from 1 to ``1 / horizon``.
        future_returns: ``[.., N]`` float32, extrinsic returns after the step, discounted from the next one on; zeros
            while they are not known.
    """

    state: Tensor
    actions: Tensor
    rewards: Tensor
    time_left: Tensor
    future_returns: Tensor

    def flattened(self) -> Transition:
        """The steps in one row, ``[rows, ..]``."""
        axes = self.actions.dim() - 2
        return Transition(*(values.flatten(0, axes) for values in self)) if axes else self

    @classmethod
    def of(cls, columns: Mapping[str, Tensor]) -> Transition:
        """From columns among which there are a transition's."""
        return cls(*(columns[name] for name in cls._fields))


class Influence(NamedTuple):
    """The influence of each agent on each in some steps, ``[.., N, N]`` by ``[j, i]``: of j on i.

    Attributes:
        received: As the one who was influenced, i, takes it to be.
        given: As the one who influenced, j, takes it to be.
    """

    received: Tensor
    given: Tensor

    @classmethod
    def agreed(cls, influence: Tensor) -> Influence:
        """What everybody takes it to be alike."""
        return cls(influence, influence)


class InfluenceEstimator(TorchRLModule):
    """Says how much each agent's action was worth to each agent.

    An RLModule, so that RLlib places it on the learner's device, copies it to the env runners with the policies, and
    writes it into checkpoints. Its observation space is that of a transition's state. Settings common to all, in
    ``model_config``: ``num_agents``, ``buffer_iterations``, ``update_period_iters``.
    """

    @classmethod
    def needs_behavior(cls, model_config: Mapping[str, Any]) -> bool:
        """Returns whether :meth:`influence` takes expectations over the players' action distributions.

        Args:
            model_config: The settings that an estimator of this class is built with.
        """
        return False

    @property
    def uses_behavior(self) -> bool:
        """Whether :meth:`influence` needs the probabilities with which the players chose."""
        return self.needs_behavior(self.model_config)

    @property
    def uses_future(self) -> bool:
        """Whether it learns from returns after the step."""
        return False

    @classmethod
    def check_space(cls, space: gymnasium.Space) -> None:
        """Raises ValueError if the estimator cannot work with states of this space."""

    @abstractmethod
    def influence(self, transition: Transition, behavior: Tensor | None = None) -> Influence:
        """The influence of each agent on each in these steps; without gradient.

        Args:
            transition: The steps.
            behavior: ``[.., N, A]``, probabilities with which each agent chose in these steps.

        Returns:
            The influence, ``[.., N, N]``.
        """

    def observe(self, transition: Transition, iteration: int) -> dict[str, float]:
        """Takes in the steps of one iteration, the same on all learners, where that needs no gradient.

        Args:
            transition: Steps of this learner's share of the games, ``[rows, ..]``.
            iteration: The iteration, from 0.

        Returns:
            What to report, by name.
        """
        return {}

    def replay_rows(self, steps: Transition, ended: Tensor) -> dict[str, Tensor]:
        """What is kept of the steps of one iteration, by column.

        Args:
            steps: Steps of this learner's share of the games, ``[B, T, ..]``.
            ended: ``[B, T]`` bool, whether the episode ended with that step.

        Returns:
            Columns ``[B * T, ..]``.
        """
        return steps.flattened()._asdict()

    def num_minibatches(self, rows: int) -> int:
        """How many batches :meth:`minibatches` yields of a replay of that many rows."""
        return 0

    def minibatches(self, replay: dict[str, Tensor], generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
        """Batches to take gradient steps on, one after the other; none for an estimator that learns otherwise.

        Args:
            replay: What was kept of the last ``buffer_iterations`` iterations, ``[rows, ..]``.
            generator: Draws the batches.
        """
        yield from ()

    def validation_losses(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parts of the loss on steps that it has not learned from yet, by name; none for one without gradients.

        Args:
            rows: What :meth:`replay_rows` keeps of the steps.
        """
        return {}

    def after_fit(self) -> None:
        """Called after the gradient steps of an iteration."""
