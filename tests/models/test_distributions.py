import gymnasium
import pytest
import torch
from ray.rllib.core.distribution.torch.torch_distribution import TorchCategorical

from rllib_reciprocator.models.distributions import Bernoulli, Categorical, distribution_for, probabilities


def pair(kind, seed=0, rows=64, actions=5):
    """Returns a distribution of this package and PyTorch's with the same probabilities."""
    logits = 3 * torch.randn(rows, 1 if kind is Bernoulli else actions, generator=torch.Generator().manual_seed(seed))
    reference = torch.cat([torch.zeros_like(logits), logits], -1) if kind is Bernoulli else logits
    return kind.from_logits(logits), torch.distributions.Categorical(logits=reference)


BOTH = pytest.mark.parametrize("kind", [Bernoulli, Categorical])


@BOTH
def test_matches_categorical_of_pytorch(kind):
    ours, reference = pair(kind)
    second, other_reference = pair(kind, seed=1)
    for action in range(reference.logits.shape[-1]):
        actions = torch.full((64,), action)
        torch.testing.assert_close(ours.logp(actions), reference.log_prob(actions))
    torch.testing.assert_close(ours.entropy(), reference.entropy())
    kl = torch.distributions.kl_divergence(reference, other_reference)
    torch.testing.assert_close(ours.kl(second), kl)
    assert torch.equal(ours.to_deterministic().sample(), reference.logits.argmax(-1))


@BOTH
def test_samples_have_the_right_frequencies_and_use_the_generator(kind):
    ours, reference = pair(kind, rows=1)
    repeats = kind.from_logits(ours.logits.expand(100_000, -1))
    before = torch.get_rng_state()
    samples = [repeats.sample(generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*samples)
    assert torch.equal(before, torch.get_rng_state())
    assert samples[0].dtype == torch.int64
    frequencies = torch.bincount(samples[0], minlength=reference.probs.shape[-1]) / 100_000
    torch.testing.assert_close(frequencies, reference.probs[0], atol=0.006, rtol=0)


@BOTH
def test_extreme_logits_stay_finite(kind):
    logits = torch.tensor([[300.0]]) if kind is Bernoulli else torch.tensor([[300.0, -300.0, 0.0]])
    ours = kind.from_logits(logits.requires_grad_())
    total = ours.logp(torch.tensor([1])) + ours.entropy() + ours.kl(kind.from_logits(-logits.detach()))
    total.sum().backward()
    assert total.isfinite().all()
    assert logits.grad.isfinite().all()


@BOTH
def test_gradients_match_pytorch(kind):
    logits = torch.randn(16, 1 if kind is Bernoulli else 4, requires_grad=True)
    actions = torch.randint(2, (16,))
    ours = kind.from_logits(logits)
    (gradient,) = torch.autograd.grad((ours.logp(actions) + ours.entropy()).sum(), logits)
    reference_logits = torch.cat([torch.zeros_like(logits), logits], -1) if kind is Bernoulli else logits
    reference = torch.distributions.Categorical(logits=reference_logits)
    (reference_gradient,) = torch.autograd.grad((reference.log_prob(actions) + reference.entropy()).sum(), logits)
    torch.testing.assert_close(gradient, reference_gradient)


def test_two_actions_need_one_logit():
    two, five = gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(5)
    assert (distribution_for(two), distribution_for(two).required_input_dim(two)) == (Bernoulli, 1)
    assert (distribution_for(five), distribution_for(five).required_input_dim(five)) == (Categorical, 5)


class ReversedDistribution:
    """User-defined distribution that has log-probabilities only; action k has the k-th last logit."""

    def __init__(self, logits):
        self.log_probs = logits.log_softmax(-1).flip(-1)

    def logp(self, value, **kwargs):
        return self.log_probs.gather(-1, value[:, None])[:, 0]


@BOTH
def test_probabilities_of_this_packages_distributions(kind):
    distribution, reference = pair(kind)
    inputs, count = distribution.logits, reference.logits.shape[-1]
    torch.testing.assert_close(probabilities(distribution, inputs, count), reference.probs)
    greedy = probabilities(distribution.to_deterministic(), inputs, count)
    assert torch.equal(greedy, torch.nn.functional.one_hot(reference.probs.argmax(-1), count).float())


def test_probabilities_of_rllib_and_user_distributions():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(probabilities(TorchCategorical.from_logits(logits), logits, 4), logits.softmax(-1))
    deterministic = TorchCategorical.from_logits(logits).to_deterministic()
    assert torch.equal(probabilities(deterministic, logits, 4).argmax(-1), logits.argmax(-1))
    assert torch.equal(probabilities(deterministic, logits, 4).sum(-1), torch.ones(6))
    torch.testing.assert_close(probabilities(ReversedDistribution(logits), logits, 4), logits.softmax(-1).flip(-1))
