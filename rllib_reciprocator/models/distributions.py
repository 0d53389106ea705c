"""Action distributions that cost little on the small action spaces of social dilemmas.

RLlib's ``TorchCategorical`` builds a ``torch.distributions.Categorical``, whose checks and softmax over a short last
axis take 40% of an iteration in matrix games.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import torch
from ray.rllib.core.distribution.distribution import Distribution
from ray.rllib.core.distribution.torch.torch_distribution import TorchCategorical, TorchDeterministic
from torch import Tensor
from torch.nn import functional

from rllib_reciprocator.utils.softmax import log_softmax


def _check_numbers(values: Tensor) -> None:
    """Raises RuntimeError if a value is not a number, from which any draw would be the first action.

    On a GPU the error comes with a later operation: to wait for the answer would hold every step up.
    """
    torch._assert_async((values == values).all(), "a policy's logits are not numbers")


class _LogitsDistribution(Distribution):
    """A distribution over ``A`` actions, given by logits alone."""

    def probs(self, num_actions: int) -> Tensor:
        """How likely each action is, ``[.., A]``."""
        raise NotImplementedError

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    @classmethod
    def from_logits(cls, logits: Tensor, **kwargs: Any) -> _LogitsDistribution:
        """The distribution with these logits, ``[.., required_input_dim]``."""
        return cls(logits)

    def rsample(self, *, sample_shape: Any = None, **kwargs: Any) -> Tensor:
        """Not available: discrete actions have no reparameterised sample."""
        raise NotImplementedError("discrete actions cannot be sampled with a gradient")


class Bernoulli(_LogitsDistribution):
    """Two actions from one logit: that of action 1."""

    def sample(self, *, sample_shape: Any = None, generator: torch.Generator | None = None, **kwargs: Any) -> Tensor:
        """Actions ``[..]`` int64, drawn from the generator."""
        logit = self.logits.squeeze(-1)
        _check_numbers(logit)
        return (torch.rand(logit.shape, generator=generator, device=logit.device) < logit.sigmoid()).long()

    def logp(self, value: Tensor, **kwargs: Any) -> Tensor:
        """Log-probabilities ``[..]`` of actions."""
        sign = torch.where(value > 0, 1.0, -1.0)
        return functional.logsigmoid(sign * self.logits.squeeze(-1))

    def log_probs(self) -> Tensor:
        """Log-probabilities of both actions, ``[.., 2]``."""
        return torch.cat([functional.logsigmoid(-self.logits), functional.logsigmoid(self.logits)], -1)

    def entropy(self) -> Tensor:
        """Entropies ``[..]`` in nats."""
        logit = self.logits.squeeze(-1)
        return functional.softplus(logit) - logit * logit.sigmoid()

    def kl(self, other: Distribution, **kwargs: Any) -> Tensor:
        """Kullback-Leibler divergences ``[..]`` from the other distribution."""
        mine, theirs = self.logits.squeeze(-1), other.logits.squeeze(-1)
        return mine.sigmoid() * (mine - theirs) - functional.softplus(mine) + functional.softplus(theirs)

    def to_deterministic(self) -> Deterministic:
        """The likelier action, always."""
        _check_numbers(self.logits)
        return Deterministic((self.logits.squeeze(-1) > 0).long())

    def probs(self, num_actions: int) -> Tensor:
        """Probabilities of both actions, ``[.., 2]``."""
        second = self.logits.sigmoid()
        return torch.cat([1.0 - second, second], -1)

    @staticmethod
    def required_input_dim(space: gymnasium.Space, **kwargs: Any) -> int:
        """One logit."""
        return 1


class Categorical(_LogitsDistribution):
    """A actions from A logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits)
        self._log_probs = log_softmax(logits)

    def sample(self, *, sample_shape: Any = None, generator: torch.Generator | None = None, **kwargs: Any) -> Tensor:
        """Actions ``[..]`` int64, drawn from the generator."""
        _check_numbers(self._log_probs)
        up_to = self._log_probs.exp().cumsum(-1)
        drawn = torch.rand((*up_to.shape[:-1], 1), generator=generator, device=up_to.device)
        # Rounding can leave the last sum below 1, so it does not take part in the comparison.
        return (drawn >= up_to[..., :-1]).sum(-1)

    def logp(self, value: Tensor, **kwargs: Any) -> Tensor:
        """Log-probabilities ``[..]`` of actions."""
        return self._log_probs.gather(-1, value.unsqueeze(-1)).squeeze(-1)

    def log_probs(self) -> Tensor:
        """Log-probabilities of all actions, ``[.., A]``."""
        return self._log_probs

    def entropy(self) -> Tensor:
        """Entropies ``[..]`` in nats."""
        return -(self._log_probs.exp() * self._log_probs).sum(-1)

    def kl(self, other: Distribution, **kwargs: Any) -> Tensor:
        """Kullback-Leibler divergences ``[..]`` from the other distribution."""
        return (self._log_probs.exp() * (self._log_probs - other._log_probs)).sum(-1)

    def to_deterministic(self) -> Deterministic:
        """The likeliest action, always."""
        _check_numbers(self._log_probs)
        return Deterministic(self.logits.argmax(-1))

    def probs(self, num_actions: int) -> Tensor:
        """Probabilities of all actions, ``[.., A]``."""
        return self._log_probs.exp()

    @staticmethod
    def required_input_dim(space: gymnasium.Space, **kwargs: Any) -> int:
        """One logit an action."""
        return int(space.n)


class Deterministic(Distribution):
    """One action with certainty."""

    def __init__(self, loc: Tensor) -> None:
        super().__init__()
        self.loc = loc

    def sample(self, *, sample_shape: Any = None, generator: torch.Generator | None = None, **kwargs: Any) -> Tensor:
        """The action."""
        return self.loc

    def rsample(self, *, sample_shape: Any = None, **kwargs: Any) -> Tensor:
        """Not available: discrete actions have no reparameterised sample."""
        raise NotImplementedError("discrete actions cannot be sampled with a gradient")

    def logp(self, value: Tensor, **kwargs: Any) -> Tensor:
        """0 for the action, minus infinity for any other."""
        return torch.where(value == self.loc, 0.0, -torch.inf)

    def probs(self, num_actions: int) -> Tensor:
        """1 for the action, ``[.., A]``."""
        return functional.one_hot(self.loc, num_actions).float()

    def entropy(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.loc, dtype=torch.float32)

    def kl(self, other: Distribution, **kwargs: Any) -> Tensor:
        """How surprising the action is to the other distribution."""
        return -other.logp(self.loc)

    @staticmethod
    def required_input_dim(space: gymnasium.Space, **kwargs: Any) -> int:
        """The action itself."""
        return 1


def with_exploration(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Logits of who does anything at all in some cases: ``(1 - epsilon) p + epsilon / A``.

    Source: Yang et al. (2020), whose agents explore so; the log-probabilities that they learn by have it in them.

    Args:
        logits: ``[.., A]``, or ``[.., 1]``, the logit of the second of two actions.
        epsilon: A scalar from 0 to 1.

    Returns:
        Of the same shape.
    """
    any_of, policy = epsilon.log(), (1.0 - epsilon).log()
    if logits.shape[-1] == 1:
        half = any_of - math.log(2.0)
        second, first = functional.logsigmoid(logits) + policy, functional.logsigmoid(-logits) + policy
        return torch.logaddexp(second, half) - torch.logaddexp(first, half)
    return torch.logaddexp(log_softmax(logits) + policy, any_of - math.log(logits.shape[-1]))


def distribution_for(space: gymnasium.spaces.Discrete) -> type[Bernoulli] | type[Categorical]:
    """The distribution that a policy over this action space uses."""
    return Bernoulli if space.n == 2 else Categorical


def all_log_probs(distribution: Any, inputs: Tensor) -> Tensor:
    """How likely each action is, ``[rows, A]``, as logarithms.

    Args:
        distribution: One of ours, or a categorical one of RLlib's, whose inputs are logits.
        inputs: What it was made from, ``[rows, inputs]``.
    """
    return distribution.log_probs() if isinstance(distribution, Bernoulli | Categorical) else log_softmax(inputs)


def probabilities(distribution: Any, inputs: Tensor, num_actions: int) -> Tensor:
    """How likely each action is, ``[rows, A]``.

    Args:
        distribution: Any distribution over discrete actions: one of ours, a categorical one of RLlib's, whose inputs
            are logits, a deterministic one, or another that knows the log-probability of an action.
        inputs: What it was made from, ``[rows, inputs]``.
        num_actions: A.
    """
    if isinstance(distribution, _LogitsDistribution | Deterministic):
        return distribution.probs(num_actions)
    if isinstance(distribution, TorchDeterministic):
        return functional.one_hot(distribution.loc.long().reshape(len(inputs)), num_actions).float()
    if isinstance(distribution, TorchCategorical):
        return inputs.softmax(-1)
    actions = torch.arange(num_actions, device=inputs.device).expand(len(inputs), -1)
    return torch.stack([distribution.logp(action) for action in actions.unbind(1)], 1).exp()
