"""Base class of influence estimators."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import gymnasium
import torch
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor


class Transition(NamedTuple):
    """Inputs and targets of an influence estimator for one or more environment steps.

    Attributes:
        state: ``[.., *shape]``, view of the estimator before the step: the joint state, or observations.
        actions: ``[.., N]`` int64.
        rewards: ``[.., N]`` float32, extrinsic.
        time_left: ``[..]`` float32, remaining share of the episode's steps, from 1 to ``1 / horizon``.
        future_returns: ``[.., N]`` float32, extrinsic returns after the step, discounted from the next step on; zeros
            if they are not known yet.
    """

    state: Tensor
    actions: Tensor
    rewards: Tensor
    time_left: Tensor
    future_returns: Tensor

    def flattened(self) -> Transition:
        """Flattens the leading axes to ``[rows, ..]``."""
        axes = self.actions.dim() - 2
        return Transition(*(values.flatten(0, axes) for values in self)) if axes else self

    @classmethod
    def of(cls, columns: Mapping[str, Tensor]) -> Transition:
        """Builds a transition from columns that contain its fields."""
        return cls(*(columns[name] for name in cls._fields))


class Influence(NamedTuple):
    """Influence of each agent on each agent, ``[.., N, N]`` by ``[j, i]``: influence of j on i.

    Attributes:
        received: Influence as estimated by the influenced agent, i.
        given: Influence as estimated by the influencer, j.
    """

    received: Tensor
    given: Tensor

    @classmethod
    def agreed(cls, influence: Tensor) -> Influence:
        """Builds an influence for which the estimates of all agents are equal."""
        return cls(influence, influence)


class InfluenceEstimator(TorchRLModule):
    """Base class of RLModules that estimate the influence of each agent's action on each agent.

    Estimators are RLModules so that RLlib places them on the learner's device, copies them to the env runners with the
    policies, and saves them in checkpoints. The observation space is the space of ``Transition.state``. Settings of all
    estimators in ``model_config``: ``num_agents``, ``buffer_iterations``, ``update_period_iters``.

    Attributes:
        default_uniform_share: The ``uniform_share`` of a new estimator if the setting is None.
    """

    default_uniform_share: ClassVar[float] = 0.0

    @classmethod
    def needs_behavior(cls, model_config: Mapping[str, Any]) -> bool:
        """Returns True if :meth:`influence` computes expectations over the players' action distributions.

        Args:
            model_config: Settings of an estimator of this class.
        """
        return False

    @property
    def uses_behavior(self) -> bool:
        """Returns True if :meth:`influence` needs the action probabilities of the players."""
        return self.needs_behavior(self.model_config)

    @property
    def uses_future(self) -> bool:
        """Returns True if the estimator is trained on returns after the step."""
        return False

    @classmethod
    def check_space(cls, space: gymnasium.Space) -> None:
        """Raises ValueError if the estimator does not support states of this space."""

    @abstractmethod
    def influence(self, transition: Transition, behavior: Tensor | None = None) -> Influence:
        """Computes the influence of each agent on each agent in these steps, without gradients.

        Args:
            transition: The steps.
            behavior: ``[.., N, A]``, action probabilities of each agent in these steps.

        Returns:
            The influence, ``[.., N, N]``.
        """

    def observe(self, transition: Transition, iteration: int) -> dict[str, float]:
        """Updates an estimator that is trained without gradients, to the same state on all learners.

        Args:
            transition: Steps of this learner's share of the environments, ``[rows, ..]``.
            iteration: Index of the iteration, from 0.

        Returns:
            Metrics by name.
        """
        return {}

    def replay_rows(self, steps: Transition, ended: Tensor) -> dict[str, Tensor]:
        """Returns the columns of one iteration that are stored in the replay buffer.

        Args:
            steps: Steps of this learner's share of the environments, ``[B, T, ..]``.
            ended: ``[B, T]`` bool, True in the last step of an episode.

        Returns:
            Columns ``[B * T, ..]`` by name.
        """
        return steps.flattened()._asdict()

    def num_minibatches(self, rows: int) -> int:
        """Returns the number of minibatches that :meth:`minibatches` yields for a replay buffer with that many rows."""
        return 0

    def minibatches(self, replay: dict[str, Tensor], generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
        """Yields the minibatches of an update; none for an estimator that is trained without gradients.

        Args:
            replay: Replay buffer with the columns of the last ``buffer_iterations`` iterations, ``[rows, ..]``.
            generator: Random number generator for the order of the rows.
        """
        yield from ()

    def validation_losses(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Computes the terms of the loss on new steps, by name; none for estimators without gradients.

        Args:
            rows: Columns of steps that the estimator has not been trained on, from :meth:`replay_rows`.
        """
        return {}

    def after_fit(self) -> None:
        """Runs after the gradient steps of an iteration; does nothing by default."""
