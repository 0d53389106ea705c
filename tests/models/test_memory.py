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
    kept = torch.tensor([0.5, 0.0, 2.0]).view(1, 3, 1)
    added = torch.tensor([1.0, 3.0, 4.0]).view(1, 3, 1)
    assert scan(kept, added, torch.tensor([[10.0]])).flatten().tolist() == [6.0, 3.0, 10.0]


@settings(deadline=None)
@given(steps=SIZES, streams=st.integers(1, 3), cell=st.integers(1, 4), seed=st.integers(0, 99))
def test_a_scan_and_its_gradient_are_those_of_a_loop(steps, streams, cell, seed):
    generator = torch.Generator().manual_seed(seed)
    kept, added = torch.rand(2, streams, steps, cell, generator=generator, dtype=torch.float64)
    before = torch.randn(streams, cell, generator=generator, dtype=torch.float64)
    wanted = torch.randn(streams, steps, cell, generator=generator, dtype=torch.float64)
    given = [each.clone().requires_grad_() for each in (kept, added, before)]
    found, expected = (function(*given) for function in (scan, one_by_one))
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((each * wanted).sum(), given) for each in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("steps", [1, 5, 12])
def test_a_scan_has_second_derivatives(steps):
    generator = torch.Generator().manual_seed(steps)
    kept, added = torch.rand(2, 2, steps, 3, generator=generator, dtype=torch.float64)
    before = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    inputs = tuple(each.requires_grad_() for each in (kept, added, before))
    assert torch.autograd.gradgradcheck(scan, inputs)


def test_a_scan_over_long_contexts_neither_fades_nor_overflows():
    kept = torch.full((2, 5000, 3), 1e-3, requires_grad=True)
    added = torch.randn(2, 5000, 3, requires_grad=True)
    found = scan(kept, added, torch.zeros(2, 3))
    assert bool(found.isfinite().all())
    found.sum().backward()
    assert bool(kept.grad.isfinite().all())
    remembered = scan(torch.ones(1, 5000, 1), torch.zeros(1, 5000, 1), torch.ones(1, 1))
    assert remembered.unique().tolist() == [1.0]


@pytest.mark.parametrize("kind", [GRUMemory, LinearRecurrentMemory])
def test_steps_are_what_a_pass_over_the_whole_gives(kind):
    torch.manual_seed(0)
    memory, features = kind(3, 5), torch.randn(4, 17, 3)
    is_first = torch.rand(4, 17) < 0.2
    before = torch.randn(4, 5)
    carried, out = before, []
    for t in range(17):
        carried = torch.where(is_first[:, t, None], 0.0, carried)
        step, carried = memory.step(features[:, t], carried)
        out.append(step)
    torch.testing.assert_close(memory.over(features, before, is_first), torch.stack(out, 1))
    fresh, whole = torch.zeros(4, 5), memory.over(features, None, None)
    for t in range(17):
        step, fresh = memory.step(features[:, t], fresh)
        torch.testing.assert_close(whole[:, t], step)


def test_linear_units_train_on_long_contexts():
    """Which of two coins it is, from 1,000 throws of which no single one tells much."""
    torch.manual_seed(0)
    memory, head = LinearRecurrentMemory(1, 16), torch.nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*memory.parameters(), *head.parameters()], lr=0.01)
    for _ in range(25):
        told = torch.randint(2, (64,)).float()
        heads = torch.rand(64, 1000) < (0.45 + 0.1 * told)[:, None]
        guess = head(memory.over(2.0 * heads[..., None].float() - 1.0, None, None)[:, -1])[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(guess, told)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(((guess > 0) == (told > 0.5)).float().mean()) > 0.85


def test_a_step_that_is_written_out_is_pytorchs():
    torch.manual_seed(0)
    memory, features, before = GRUMemory(3, 5), torch.randn(7, 3), torch.randn(7, 5)
    expected = torch.gru_cell(features, before, *memory.all_weights[0])
    torch.testing.assert_close(written_out(features, before, *memory.all_weights[0]), expected)
    memory.side_by_side = True
    torch.testing.assert_close(memory.step(features, before), (expected, expected))
