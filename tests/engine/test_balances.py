"""Tests of balances in rollouts: initial values, decay, what policies observe, and settings of each player."""

import pytest
import torch

from rllib_reciprocator.intrinsic.reciprocity import REWARDS, balance
from rllib_reciprocator.intrinsic.reciprocity.specs import BALANCE_INPUT
from tests.helpers.rollouts import runner, sampling_config


def test_episodes_start_with_the_initial_balance():
    """Expects the initial balance of a Reciprocator, which then follows the usual update. Naive learners have none."""
    players = {"player_0": "reciprocator", "player_1": "ppo"}
    a_config = sampling_config(players, env="coins_v0", reward="petty_payoff", balance_decay=0.5, initial_balance=3.0)
    a_config.env_runners(rollout_fragment_length=12)
    (sample,) = runner(a_config).sample()
    before, influence = sample.columns["balance"], sample.columns["influence"]
    initial = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    for first in (0, 6):
        assert (before[:, first] == initial).all()
        expected = 0.5 * initial + influence[:, first] - influence[:, first].transpose(1, 2)
        torch.testing.assert_close(before[:, first + 1], expected)


@pytest.mark.parametrize("rule", REWARDS)
def test_balance_during_sampling_matches_that_of_whole_episodes(rule):
    (sample,) = runner(sampling_config(reward=rule, balance_decay=0.9)).sample()
    starts = torch.zeros(6, 8, dtype=torch.bool)
    starts[0] = True
    whole = balance(sample.columns["influence"].transpose(0, 1), REWARDS[rule], 0.9, starts)
    torch.testing.assert_close(sample.columns["balance"].transpose(0, 1), whole)
    assert sample.columns["balance"][:, 1:].abs().sum() > 0


def test_reciprocators_observe_their_balance_and_naive_learners_do_not():
    a_config = sampling_config(
        {"player_0": "reciprocator", "player_*": "ppo"}, env="public_goods_v0", observe_balance=True, reward="petty"
    )
    a_config.environment(env_config={"num_agents": 3, "num_steps": 6})
    (sample,) = runner(a_config).sample()
    assert BALANCE_INPUT not in sample.modules["player_1"].steps
    observed_balances = sample.modules["player_0"].steps[BALANCE_INPUT][:, 0]
    torch.testing.assert_close(observed_balances, sample.columns["balance"][:, :, [1, 2], 0])


@pytest.mark.parametrize("env", ["coins_v0", "public_goods_v0"])
def test_observed_balance_equals_that_of_the_reward(env):
    """Compares the observed balance with the one that the reciprocal reward is computed from."""
    players = {"player_0": "reciprocator", "player_*": "scripted/random"}
    a_config = sampling_config(players, env=env, observe_balance=True, influence="reward", balance_decay=0.9)
    a_config.environment(env_config={"num_agents": 3, "num_steps": 6} | ({"grid_size": 4} if env == "coins_v0" else {}))
    (sample,) = runner(a_config).sample()
    policy_balance = sample.modules["player_0"].steps[BALANCE_INPUT][:, 0]
    torch.testing.assert_close(policy_balance, sample.columns["balance"][:, :, [1, 2], 0])
    expected = 0.9 * sample.columns["balance"][:, :-1] + sample.columns["influence"][:, :-1]
    if env == "coins_v0":
        expected = expected - sample.columns["given"][:, :-1].transpose(-1, -2)
    torch.testing.assert_close(sample.columns["balance"][:, 1:], expected)
    assert policy_balance.abs().sum() > 0


def test_players_have_individual_balance_settings():
    """Uses different reward rules and decays for two players with a common estimator."""
    players = {
        "player_0": {"player": "reciprocator", "intrinsic": {"reciprocity": {"reward": "petty_payoff"}}},
        "player_1": {"player": "ppo", "intrinsic": {"reciprocity": {"balance_decay": 0.5, "observe_balance": True}}},
    }
    (sample,) = runner(sampling_config(players, reward="petty", balance_decay=0.9)).sample()
    starts = torch.zeros(6, 8, dtype=torch.bool)
    starts[0] = True
    influence = sample.columns["influence"].transpose(0, 1)
    for agent, rule, decay in ((0, "petty_payoff", 0.9), (1, "petty", 0.5)):
        whole = balance(influence, REWARDS[rule], decay, starts)
        torch.testing.assert_close(sample.columns["balance"].transpose(0, 1)[..., agent], whole[..., agent])
    assert BALANCE_INPUT in sample.modules["player_1"].steps
    assert BALANCE_INPUT not in sample.modules["player_0"].steps


def test_individual_estimator_settings_raise():
    players = {"*": {"player": "ppo", "intrinsic": {"reciprocity": {"estimator_lr": 0.1}}}}
    with pytest.raises(ValueError, match=r"players.player_0.intrinsic.reciprocity.estimator_lr: is shared by all"):
        sampling_config(players).validate()
    players = {"*": {"player": "ppo", "intrinsic": {"reciprocity": {"balance_decay": 2.0}}}}
    with pytest.raises(ValueError, match=r"players.player_0.intrinsic.reciprocity.balance_decay: .*less than or equal"):
        sampling_config(players).validate()
