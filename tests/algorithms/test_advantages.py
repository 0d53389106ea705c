import pytest
import torch

from rllib_reciprocator.algorithms.advantages import generalized_advantages, values_after


def test_by_hand():
    rewards, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, 1.0, 1.5]])
    next_values = torch.tensor([[1.0, 1.5, 4.0]])
    ends = torch.tensor([[False, False, False]])
    # Errors with gamma 0.5: 1 + 0.5 - 0.5 = 1; 2 + 0.75 - 1 = 1.75; 3 + 2 - 1.5 = 3.5. gamma * lambda = 0.25.
    found = generalized_advantages(rewards, values, next_values, ends, gamma=0.5, lambda_=0.5)
    assert found.tolist() == [[1 + 0.25 * (1.75 + 0.25 * 3.5), 1.75 + 0.25 * 3.5, 3.5]]


def test_lambda_one_is_the_discounted_sum_less_the_value():
    rewards, values = torch.randn(4, 9), torch.randn(4, 9)
    ends = torch.zeros(4, 9, dtype=torch.bool)
    ends[:, -1] = True
    after = values_after(values, torch.randn(4), ends)
    found = generalized_advantages(rewards, values, after, ends, gamma=0.9, lambda_=1.0)
    for t in range(9):
        to_go = sum(0.9**k * rewards[:, t + k] for k in range(9 - t))
        torch.testing.assert_close(found[:, t], to_go - values[:, t])


def test_nothing_passes_over_the_end_of_an_episode():
    rewards, values = torch.randn(2, 6), torch.randn(2, 6)
    ends = torch.tensor([[False, True, False, False, False, True]] * 2)
    after = values_after(values, torch.zeros(2), ends)
    whole = generalized_advantages(rewards, values, after, ends, gamma=0.9, lambda_=0.8)
    first = generalized_advantages(rewards[:, :2], values[:, :2], after[:, :2], ends[:, :2], gamma=0.9, lambda_=0.8)
    torch.testing.assert_close(whole[:, :2], first)


@pytest.mark.parametrize("nothing", [True, False])
def test_value_after_the_last_step(nothing):
    after = values_after(torch.tensor([[1.0, 2.0]]), torch.tensor([5.0]), torch.tensor([[False, nothing]]))
    assert after.tolist() == [[2.0, 0.0 if nothing else 5.0]]
