import torch

from rllib_reciprocator.engine.advantages import generalized_advantages, returns_after


def test_generalized_advantages_by_hand():
    rewards, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, 1.0, 1.5]])
    next_values = torch.tensor([[1.0, 1.5, 4.0]])
    ends = torch.tensor([[False, False, False]])
    # TD errors with gamma 0.5: 1 + 0.5 - 0.5 = 1; 2 + 0.75 - 1 = 1.75; 3 + 2 - 1.5 = 3.5. gamma * lambda = 0.25.
    advantages = generalized_advantages(rewards, values, next_values, ends, gamma=0.5, lambda_=0.5)
    assert advantages.tolist() == [[1 + 0.25 * (1.75 + 0.25 * 3.5), 1.75 + 0.25 * 3.5, 3.5]]


def test_lambda_one_gives_the_return_minus_the_value():
    rewards, values = torch.randn(4, 9), torch.randn(4, 9)
    ends = torch.zeros(4, 9, dtype=torch.bool)
    ends[:, -1] = True
    next_values = torch.cat([values[:, 1:], torch.zeros(4, 1)], 1)
    advantages = generalized_advantages(rewards, values, next_values, ends, gamma=0.9, lambda_=1.0)
    for t in range(9):
        to_go = sum(0.9**k * rewards[:, t + k] for k in range(9 - t))
        torch.testing.assert_close(advantages[:, t], to_go - values[:, t])


def test_advantages_stop_at_the_end_of_an_episode():
    rewards, values = torch.randn(2, 6), torch.randn(2, 6)
    ends = torch.tensor([[False, True, False, False, False, True]] * 2)
    next_values = torch.randn(2, 6)
    whole = generalized_advantages(rewards, values, next_values, ends, gamma=0.9, lambda_=0.8)
    first = generalized_advantages(
        rewards[:, :2], values[:, :2], next_values[:, :2], ends[:, :2], gamma=0.9, lambda_=0.8
    )
    torch.testing.assert_close(whole[:, :2], first)


def test_agents_have_individual_discounts():
    rewards, values, next_values = torch.randn(3, 4, 6, 2).unbind(0)
    ends = torch.rand(4, 6) < 0.3
    gamma, lambda_ = torch.tensor([0.9, 0.5]), torch.tensor([1.0, 0.7])
    whole = generalized_advantages(rewards, values, next_values, ends, gamma=gamma, lambda_=lambda_)
    for agent in range(2):
        agent_columns = (column[..., agent] for column in (rewards, values, next_values))
        settings = {"gamma": float(gamma[agent]), "lambda_": float(lambda_[agent])}
        torch.testing.assert_close(whole[..., agent], generalized_advantages(*agent_columns, ends, **settings))


def test_returns_after_stop_at_the_end_of_an_episode():
    rewards = torch.tensor([[[1.0], [2.0], [4.0], [8.0]]])
    ends = torch.tensor([[False, True, False, False]])
    assert returns_after(rewards, ends, 0.5)[..., 0].tolist() == [[2.0, 0.0, 8.0, 0.0]]
