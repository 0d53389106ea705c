"""Action distributions that are fast on the small action spaces of social dilemmas.

RLlib's ``TorchCategorical`` builds a ``torch.distributions.Categorical``, whose checks and softmax over a short last
axis take 40% of an iteration in matrix games.
"""

from __future__ import annotations

import inspect
import math
from functools import cache
from typing import Any

import gymnasium
import torch
from ray.rllib.core.distribution.distribution import Distribution
from ray.rllib.core.distribution.torch.torch_distribution import TorchCategorical, TorchDeterministic
from torch import Tensor
from torch.nn import functional

from rllib_reciprocator.utils.softmax import log_softmax


def _check_numbers(values: Tensor) -> None:
    """Raises RuntimeError if a value is NaN, because sampling would then always return the first action.

    On a GPU the error is raised by a later operation, because waiting for the result would delay every step.
    """
    torch._assert_async((values == values).all(), "a policy's logits are not numbers")


class _LogitsDistribution(Distribution):
    """Distribution over ``A`` actions that is parameterized by logits."""

    def probs(self, num_actions: int) -> Tensor:
        """Returns the probability of each action, ``[.., A]``."""
        raise NotImplementedError

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    @classmethod
    def from_logits(cls, logits: Tensor, **kwargs: Any) -> _LogitsDistribution:
        """Builds the distribution from logits, ``[.., required_input_dim]``."""
        return cls(logits)

    def rsample(self, *, sample_shape: Any = None, **kwargs: Any) -> Tensor:
        """Raises NotImplementedError, because discrete actions have no reparameterized sample."""
        raise NotImplementedError("rsample: discrete actions have no reparameterized sample; use sample()")


class Bernoulli(_LogitsDistribution):
    """Distribution over two actions, parameterized by the logit of action 1."""

    def sample(self, *, sample_shape: Any = None, generator: torch.Generator | None = None, **kwargs: Any) -> Tensor:
        """Samples actions, ``[..]`` int64, with the random generator."""
        logit = self.logits.squeeze(-1)
        _check_numbers(logit)
        return (torch.rand(logit.shape, generator=generator, device=logit.device) < logit.sigmoid()).long()

    def logp(self, value: Tensor, **kwargs: Any) -> Tensor:
        """Returns the log-probabilities of actions, ``[..]``."""
        sign = torch.where(value > 0, 1.0, -1.0)
        return functional.logsigmoid(sign * self.logits.squeeze(-1))

    def log_probs(self) -> Tensor:
        """Returns the log-probabilities of both actions, ``[.., 2]``."""
        return torch.cat([functional.logsigmoid(-self.logits), functional.logsigmoid(self.logits)], -1)

    def entropy(self) -> Tensor:
        """Returns the entropies in nats, ``[..]``."""
        logit = self.logits.squeeze(-1)
        return functional.softplus(logit) - logit * logit.sigmoid()

    def kl(self, other: Distribution, **kwargs: Any) -> Tensor:
        """Returns the Kullback-Leibler divergences ``KL(self || other)``, ``[..]``."""
        logit, other_logit = self.logits.squeeze(-1), other.logits.squeeze(-1)
        return logit.sigmoid() * (logit - other_logit) - functional.softplus(logit) + functional.softplus(other_logit)

    def to_deterministic(self) -> Deterministic:
        """Returns the distribution that always selects the more likely action."""
        _check_numbers(self.logits)
        return Deterministic((self.logits.squeeze(-1) > 0).long())

    def probs(self, num_actions: int) -> Tensor:
        """Returns the probabilities of both actions, ``[.., 2]``."""
        prob = self.logits.sigmoid()
        return torch.cat([1.0 - prob, prob], -1)

    @staticmethod
    def required_input_dim(space: gymnasium.Space, **kwargs: Any) -> int:
        """Returns 1, the number of logits."""
        return 1


class Categorical(_LogitsDistribution):
    """Distribution over A actions, parameterized by A logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits)
        self._log_probs = log_softmax(logits)

    def sample(self, *, sample_shape: Any = None, generator: torch.Generator | None = None, **kwargs: Any) -> Tensor:
        """Samples actions, ``[..]`` int64, with the random generator."""
        _check_numbers(self._log_probs)
        cumulative = self._log_probs.exp().cumsum(-1)
        uniform = torch.rand((*cumulative.shape[:-1], 1), generator=generator, device=cumulative.device)
        # Rounding can leave the last cumulative probability below 1, so it is left out of the comparison.
        return (uniform >= cumulative[..., :-1]).sum(-1)

    def logp(self, value: Tensor, **kwargs: Any) -> Tensor:
        """Returns the log-probabilities of actions, ``[..]``."""
        return self._log_probs.gather(-1, value.unsqueeze(-1)).squeeze(-1)

    def log_probs(self) -> Tensor:
        """Returns the log-probabilities of all actions, ``[.., A]``."""
        return self._log_probs

    def entropy(self) -> Tensor:
        """Returns the entropies in nats, ``[..]``."""
        return -(self._log_probs.exp() * self._log_probs).sum(-1)

    def kl(self, other: Distribution, **kwargs: Any) -> Tensor:
        """Returns the Kullback-Leibler divergences ``KL(self || other)``, ``[..]``."""
        return (self._log_probs.exp() * (self._log_probs - other._log_probs)).sum(-1)

    def to_deterministic(self) -> Deterministic:
        """Returns the distribution that always selects the most likely action."""
        _check_numbers(self._log_probs)
        return Deterministic(self.logits.argmax(-1))

    def probs(self, num_actions: int) -> Tensor:
        """Returns the probabilities of all actions, ``[.., A]``."""
        return self._log_probs.exp()

    @staticmethod
    def required_input_dim(space: gymnasium.Space, **kwargs: Any) -> int:
        """Returns A, the number of logits."""
        return int(space.n)


class Deterministic(Distribution):
    """Distribution that selects one action with probability 1."""

    def __init__(self, loc: Tensor) -> None:
        super().__init__()
        self.loc = loc

    def sample(self, *, sample_shape: Any = None, generator: torch.Generator | None = None, **kwargs: Any) -> Tensor:
        """Returns the action."""
        return self.loc

    def rsample(self, *, sample_shape: Any = None, **kwargs: Any) -> Tensor:
        """Raises NotImplementedError, because discrete actions have no reparameterized sample."""
        raise NotImplementedError("rsample: discrete actions have no reparameterized sample; use sample()")

    def logp(self, value: Tensor, **kwargs: Any) -> Tensor:
        """Returns 0 for the action and minus infinity for any other."""
        return torch.where(value == self.loc, 0.0, -torch.inf)

    def probs(self, num_actions: int) -> Tensor:
        """Returns the probabilities of all actions, ``[.., A]``: 1 for the action and 0 for any other."""
        return functional.one_hot(self.loc, num_actions).float()

    def entropy(self) -> Tensor:
        """Returns zeros."""
        return torch.zeros_like(self.loc, dtype=torch.float32)

    def kl(self, other: Distribution, **kwargs: Any) -> Tensor:
        """Returns ``KL(self || other)``: the negative log-probability of the action under the other distribution."""
        return -other.logp(self.loc)

    @staticmethod
    def required_input_dim(space: gymnasium.Space, **kwargs: Any) -> int:
        """Returns 1: the input is the action."""
        return 1


def with_exploration(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Returns the logits of a policy with epsilon exploration, ``(1 - epsilon) p + epsilon / A``.

    Source: Yang et al. (2020), whose agents explore in this way and are trained on the log-probabilities of the
    mixture.

    Args:
        logits: ``[.., A]``, or ``[.., 1]``, the logit of the second of two actions.
        epsilon: Scalar from 0 to 1, the probability of a uniformly random action.

    Returns:
        Logits of the mixture, with the shape of ``logits``.
    """
    log_epsilon, log_policy = epsilon.log(), (1.0 - epsilon).log()
    if logits.shape[-1] == 1:
        half = log_epsilon - math.log(2.0)
        second, first = functional.logsigmoid(logits) + log_policy, functional.logsigmoid(-logits) + log_policy
        return torch.logaddexp(second, half) - torch.logaddexp(first, half)
    return torch.logaddexp(log_softmax(logits) + log_policy, log_epsilon - math.log(logits.shape[-1]))


def distribution_for(space: gymnasium.spaces.Discrete) -> type[Bernoulli] | type[Categorical]:
    """Returns the distribution class for policies with this action space."""
    return Bernoulli if space.n == 2 else Categorical


def all_log_probs(distribution: Any, inputs: Tensor) -> Tensor:
    """Returns the log-probability of each action, ``[rows, A]``.

    Args:
        distribution: A distribution of this module, or a categorical distribution of RLlib, whose inputs are logits.
        inputs: Inputs of the distribution, ``[rows, inputs]``.
    """
    return distribution.log_probs() if isinstance(distribution, Bernoulli | Categorical) else log_softmax(inputs)


@cache
def _takes_generator(distribution_class: Any) -> bool:
    """Returns True if a class of distributions samples with a given random number generator."""
    return "generator" in inspect.signature(distribution_class.sample).parameters


def sample_actions(distribution: Any, generator: torch.Generator) -> Tensor:
    """Samples actions with a random number generator.

    Distributions that do not take a generator, e.g. RLlib's, sample from PyTorch's global one, which is seeded from the
    generator and restored.

    Args:
        distribution: A distribution of this module, or any other with a ``sample`` method.
        generator: The generator.
    """
    distribution_class: Any = type(distribution)
    if _takes_generator(distribution_class):
        return distribution.sample(generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    devices = [generator.device] if generator.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        return distribution.sample()


def probabilities(distribution: Any, inputs: Tensor, num_actions: int) -> Tensor:
    """Returns the probability of each action, ``[rows, A]``.

    Args:
        distribution: Distribution over discrete actions: one of this module, a categorical or deterministic one of
            RLlib, or any other with a ``logp`` method. Inputs of categorical distributions are logits.
        inputs: Inputs of the distribution, ``[rows, inputs]``.
        num_actions: Number of actions A.
    """
    if isinstance(distribution, _LogitsDistribution | Deterministic):
        return distribution.probs(num_actions)
    if isinstance(distribution, TorchDeterministic):
        return functional.one_hot(distribution.loc.long().reshape(len(inputs)), num_actions).float()
    if isinstance(distribution, TorchCategorical):
        return inputs.softmax(-1)
    actions = torch.arange(num_actions, device=inputs.device).expand(len(inputs), -1)
    return torch.stack([distribution.logp(action) for action in actions.unbind(1)], 1).exp()
