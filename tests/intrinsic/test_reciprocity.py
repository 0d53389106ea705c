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

# Two steps of two players. Step 0: player 0 gave 2, player 1 gave -3; on themselves 5 and 7. Step 1: 11, -13; 17, 19.
HAND = torch.tensor([[[5.0, 2.0], [-3.0, 7.0]], [[17.0, 11.0], [-13.0, 19.0]]])
STARTS = torch.tensor([True, False])

# With decay d = 0.5 there is one balance to look at, that before step 1, from step 0 alone: for player 0
# c = v[1->0] = -3, s = v[0->1] = 2, o = v[1->1] = 7; for player 1 c = 2, s = -3, o = v[0->0] = 5.
# Rewards at step 1 multiply it with what the player then gave: player 0 11, player 1 -13.
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
    of_0_towards_1, of_1_towards_0, reward_0, reward_1 = BY_HAND[name]
    rule = REWARDS[name]
    before = balance(HAND, rule, 0.5, STARTS)
    assert before[0].tolist() == [[0, 0], [0, 0]]
    assert before[1, 1, 0] == of_0_towards_1
    assert before[1, 0, 1] == of_1_towards_0
    rewards = reciprocal_reward(before, HAND, rule)
    assert rewards.tolist() == [[0, 0], [reward_0, reward_1]]


def test_balance_decays():
    ones = torch.zeros(4, 2, 2)
    ones[0, 1, 0] = 8.0
    before = balance(ones, REWARDS["petty"], 0.5, torch.tensor([True, False, False, False]))
    assert before[:, 1, 0].tolist() == [0.0, 8.0, 4.0, 2.0]


def test_mean_over_the_others():
    """Player 0 holds 1 towards player 1 and 2 towards player 2, and gives them 10 and 100."""
    held, given_ = torch.zeros(3, 3), torch.zeros(3, 3)
    held[1, 0], held[2, 0] = 1.0, 2.0
    given_[0, 1], given_[0, 2] = 10.0, 100.0
    assert reciprocal_reward(held, given_, REWARDS["petty"]).tolist() == [105.0, 0.0, 0.0]


@RULES
@given(agents=st.integers(2, 5), steps=st.integers(1, 6), seed=st.integers(0, 999), decay=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_properties(rule, agents, steps, seed, decay):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(steps, 3, agents, agents, generator=generator, dtype=torch.float64)
    starts = torch.rand(steps, 3, generator=generator) < 0.3
    before = balance(values, rule, decay, starts)
    rewards = reciprocal_reward(before, values, rule)

    # Zero influence gives zero reward.
    none = torch.zeros_like(values)
    assert not reciprocal_reward(balance(none, rule, decay, starts), none, rule).any()

    # Permuting agents permutes everything.
    order = torch.randperm(agents, generator=generator)
    permuted = values[..., order, :][..., order]
    before_permuted = balance(permuted, rule, decay, starts)
    torch.testing.assert_close(before_permuted, before[..., order, :][..., order])
    torch.testing.assert_close(reciprocal_reward(before_permuted, permuted, rule), rewards[..., order])

    # The balance before step t does not depend on step t or later.
    cut = int(torch.randint(steps, (), generator=generator))
    later = values.clone()
    later[cut:] = 1e6
    torch.testing.assert_close(balance(later, rule, decay, starts)[: cut + 1], before[: cut + 1])

    # Nothing passes from one episode into the next.
    for copy in range(3):
        for start in starts[:, copy].nonzero().flatten().tolist():
            alone = balance(values[start:, copy], rule, decay, starts[start:, copy])
            torch.testing.assert_close(before[start:, copy], alone)
            assert not before[start, copy].any()

    # Step by step is the same as all at once.
    running = torch.zeros_like(values[0])
    for t in range(steps):
        running = torch.where(starts[t][:, None, None], 0.0, running)
        torch.testing.assert_close(running, before[t])
        running = balance_after(running, values[t], rule, decay)


def test_schedules_go_both_ways_and_stop():
    assert [scheduled_weight(0.0, 1.0, 0.4, i) for i in range(4)] == [0.0, 0.4, 0.8, 1.0]
    assert scheduled_weight(0.7, 0.25, 0.1, 3) == pytest.approx(0.4)
    assert scheduled_weight(0.7, 0.25, 0.1, 100) == 0.25
