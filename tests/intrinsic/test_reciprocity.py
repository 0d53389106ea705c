import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_reciprocator.intrinsic.reciprocity import (
    REWARDS,
    Estimates,
    balance,
    balance_after,
    influence,
    reciprocal_reward,
    scheduled_weight,
)

RULES = pytest.mark.parametrize("rule", REWARDS.values(), ids=REWARDS)

# Influence in two steps of two players. Step 0: 2 of player 0 on player 1, -3 of player 1 on player 0, 5 and 7 on
# themselves. Step 1: 11, -13, 17 and 19.
HAND = torch.tensor([[[5.0, 2.0], [-3.0, 7.0]], [[17.0, 11.0], [-13.0, 19.0]]])
STARTS = torch.tensor([True, False])

# With decay d = 0.5, only the balance before step 1 is nonzero. It depends on step 0 alone: for player 0
# c = v[1->0] = -3, s = v[0->1] = 2, o = v[1->1] = 7; for player 1 c = 2, s = -3, o = v[0->0] = 5.
# Rewards at step 1 multiply it by the influence of the player in that step: 11 of player 0, -13 of player 1.
BY_HAND = {
    "petty": (-3, 2, -33, -26),
    "signed_grudge": (-3, 2, -11, -13),
    "petty_payoff": (-5, 5, -55, -65),
    "signed_petty_payoff": (-5, 5, -11, -13),
    "signed_grudge_petty_payoff": (-5, 5, -5, -5),
    "grudge_minus_debit": (-12, 0, -132, 0),
    "signed_grudge_minus_debit": (-12, 0, -11, 0),
}


def test_influence_is_the_counterfactual_advantage():
    estimates = Estimates(torch.tensor([1.0, 2.0]), torch.tensor([[0.5, 0.0], [3.0, 2.0]]))
    assert influence(estimates).tolist() == [[0.5, 2.0], [-2.0, 0.0]]


@pytest.mark.parametrize("name", REWARDS)
def test_every_form_by_hand(name):
    balance_0_towards_1, balance_1_towards_0, reward_0, reward_1 = BY_HAND[name]
    rule = REWARDS[name]
    balances = balance(HAND, rule, 0.5, STARTS)
    assert balances[0].tolist() == [[0, 0], [0, 0]]
    assert balances[1, 1, 0] == balance_0_towards_1
    assert balances[1, 0, 1] == balance_1_towards_0
    rewards = reciprocal_reward(balances, HAND, rule)
    assert rewards.tolist() == [[0, 0], [reward_0, reward_1]]


def test_balance_decays():
    values = torch.zeros(4, 2, 2)
    values[0, 1, 0] = 8.0
    balances = balance(values, REWARDS["petty"], 0.5, torch.tensor([True, False, False, False]))
    assert balances[:, 1, 0].tolist() == [0.0, 8.0, 4.0, 2.0]


def test_reward_is_the_mean_over_other_agents():
    """Checks balances of 1 and 2 of player 0 towards players 1 and 2, and influence of 10 and 100 on them."""
    balances, influences = torch.zeros(3, 3), torch.zeros(3, 3)
    balances[1, 0], balances[2, 0] = 1.0, 2.0
    influences[0, 1], influences[0, 2] = 10.0, 100.0
    assert reciprocal_reward(balances, influences, REWARDS["petty"]).tolist() == [105.0, 0.0, 0.0]


@RULES
@given(agents=st.integers(2, 5), steps=st.integers(1, 6), seed=st.integers(0, 999), decay=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_properties(rule, agents, steps, seed, decay):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(steps, 3, agents, agents, generator=generator, dtype=torch.float64)
    starts = torch.rand(steps, 3, generator=generator) < 0.3
    balances = balance(values, rule, decay, starts)
    rewards = reciprocal_reward(balances, values, rule)

    # Zero influence gives zero reward.
    zeros = torch.zeros_like(values)
    assert not reciprocal_reward(balance(zeros, rule, decay, starts), zeros, rule).any()

    # Permuting agents permutes everything.
    order = torch.randperm(agents, generator=generator)
    permuted_values = values[..., order, :][..., order]
    permuted_balances = balance(permuted_values, rule, decay, starts)
    torch.testing.assert_close(permuted_balances, balances[..., order, :][..., order])
    torch.testing.assert_close(reciprocal_reward(permuted_balances, permuted_values, rule), rewards[..., order])

    # The balance before step t does not depend on step t or later.
    cut = int(torch.randint(steps, (), generator=generator))
    changed_values = values.clone()
    changed_values[cut:] = 1e6
    torch.testing.assert_close(balance(changed_values, rule, decay, starts)[: cut + 1], balances[: cut + 1])

    # Balances do not carry over from one episode to the next.
    for env_index in range(3):
        for start in starts[:, env_index].nonzero().flatten().tolist():
            episode_balances = balance(values[start:, env_index], rule, decay, starts[start:, env_index])
            torch.testing.assert_close(balances[start:, env_index], episode_balances)
            assert not balances[start, env_index].any()

    # Updating the balance step by step is equivalent.
    current = torch.zeros_like(values[0])
    for t in range(steps):
        current = torch.where(starts[t][:, None, None], 0.0, current)
        torch.testing.assert_close(current, balances[t])
        current = balance_after(current, values[t], rule, decay)


def test_schedules_rise_or_fall_until_their_end():
    assert [scheduled_weight(0.0, 1.0, 0.4, i) for i in range(4)] == [0.0, 0.4, 0.8, 1.0]
    assert scheduled_weight(0.7, 0.25, 0.1, 3) == pytest.approx(0.4)
    assert scheduled_weight(0.7, 0.25, 0.1, 100) == 0.25
