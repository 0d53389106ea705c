import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_reciprocator.models.memory import GRUMemory, LinearRecurrentMemory, scan, written_out

SIZES = st.integers(1, 40)


def one_by_one(kept, added, before):
    steps = []
    for t in range(kept.shape[1]):
        before = kept[:, t] * before + added[:, t]
        steps.append(before)
    return torch.stack(steps, 1)


def test_scan_by_hand():
    decay = torch.tensor([0.5, 0.0, 2.0]).view(1, 3, 1)
    inputs = torch.tensor([1.0, 3.0, 4.0]).view(1, 3, 1)
    assert scan(decay, inputs, torch.tensor([[10.0]])).flatten().tolist() == [6.0, 3.0, 10.0]


@settings(deadline=None)
@given(steps=SIZES, streams=st.integers(1, 3), cell=st.integers(1, 4), seed=st.integers(0, 99))
def test_scan_and_its_gradient_match_a_loop(steps, streams, cell, seed):
    generator = torch.Generator().manual_seed(seed)
    decay, increments = torch.rand(2, streams, steps, cell, generator=generator, dtype=torch.float64)
    initial_memory = torch.randn(streams, cell, generator=generator, dtype=torch.float64)
    weights = torch.randn(streams, steps, cell, generator=generator, dtype=torch.float64)
    inputs = [value.clone().requires_grad_() for value in (decay, increments, initial_memory)]
    outputs, expected = (function(*inputs) for function in (scan, one_by_one))
    torch.testing.assert_close(outputs, expected)
    gradients = [torch.autograd.grad((out * weights).sum(), inputs) for out in (outputs, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("steps", [1, 5, 12])
def test_scan_has_second_derivatives(steps):
    generator = torch.Generator().manual_seed(steps)
    decay, increments = torch.rand(2, 2, steps, 3, generator=generator, dtype=torch.float64)
    initial_memory = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    inputs = tuple(value.requires_grad_() for value in (decay, increments, initial_memory))
    assert torch.autograd.gradgradcheck(scan, inputs)


def test_scan_over_long_contexts_stays_finite():
    decay = torch.full((2, 5000, 3), 1e-3, requires_grad=True)
    increments = torch.randn(2, 5000, 3, requires_grad=True)
    outputs = scan(decay, increments, torch.zeros(2, 3))
    assert bool(outputs.isfinite().all())
    outputs.sum().backward()
    assert bool(decay.grad.isfinite().all())
    constant = scan(torch.ones(1, 5000, 1), torch.zeros(1, 5000, 1), torch.ones(1, 1))
    assert constant.unique().tolist() == [1.0]


@pytest.mark.parametrize("kind", [GRUMemory, LinearRecurrentMemory])
def test_single_steps_match_a_pass_over_the_sequence(kind):
    torch.manual_seed(0)
    memory, features = kind(3, 5), torch.randn(4, 17, 3)
    is_first = torch.rand(4, 17) < 0.2
    initial_state = torch.randn(4, 5)
    state, outputs = initial_state, []
    for t in range(17):
        state = torch.where(is_first[:, t, None], 0.0, state)
        step, state = memory.step(features[:, t], state)
        outputs.append(step)
    torch.testing.assert_close(memory.over(features, initial_state, is_first), torch.stack(outputs, 1))
    episode_state, episode_outputs = torch.zeros(4, 5), memory.over(features, None, None)
    for t in range(17):
        step, episode_state = memory.step(features[:, t], episode_state)
        torch.testing.assert_close(episode_outputs[:, t], step)


def test_linear_units_train_on_long_contexts():
    """Classifies two coins with 45 and 55 % heads by 1,000 throws."""
    torch.manual_seed(0)
    memory, head = LinearRecurrentMemory(1, 16), torch.nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*memory.parameters(), *head.parameters()], lr=0.01)
    for _ in range(25):
        labels = torch.randint(2, (64,)).float()
        throws = torch.rand(64, 1000) < (0.45 + 0.1 * labels)[:, None]
        logits = head(memory.over(2.0 * throws[..., None].float() - 1.0, None, None)[:, -1])[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(((logits > 0) == (labels > 0.5)).float().mean()) > 0.85


def test_written_out_step_matches_pytorch():
    torch.manual_seed(0)
    memory, features, before = GRUMemory(3, 5), torch.randn(7, 3), torch.randn(7, 5)
    expected = torch.gru_cell(features, before, *memory.all_weights[0])
    torch.testing.assert_close(written_out(features, before, *memory.all_weights[0]), expected)
    memory.side_by_side = True
    torch.testing.assert_close(memory.step(features, before), (expected, expected))
