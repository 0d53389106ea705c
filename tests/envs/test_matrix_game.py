import numpy as np
import pytest
import torch

import social_dilemmas


@pytest.mark.parametrize(
    ("game_id", "table"),
    [
        ("ipd_v0", {(0, 0): (-1, -1), (0, 1): (-3, 0), (1, 0): (0, -3), (1, 1): (-2, -2)}),
        ("stag_hunt_v0", {(0, 0): (4, 4), (0, 1): (0, 3), (1, 0): (3, 0), (1, 1): (2, 2)}),
        ("chicken_v0", {(0, 0): (0, 0), (0, 1): (-1, 1), (1, 0): (1, -1), (1, 1): (-10, -10)}),
    ],
)
def test_payoffs(game_id, table):
    game = social_dilemmas.make(game_id, 4)
    game.reset(seed=0)
    rewards = game.step(torch.tensor(list(table))).rewards
    assert rewards.tolist() == [list(map(float, payoff)) for payoff in table.values()]


@pytest.mark.parametrize("game_id", ["ipd_v0", "stag_hunt_v0", "chicken_v0"])
def test_payoffs_satisfy_the_inequalities_of_their_dilemma(game_id):
    payoffs = social_dilemmas.make(game_id).payoffs[..., 0]
    reward, sucker, temptation, punishment = payoffs.flatten().tolist()
    assert reward > punishment  # mutual cooperation is better than mutual defection
    if game_id == "ipd_v0":
        assert temptation > reward > punishment > sucker
        assert 2 * reward > temptation + sucker
    elif game_id == "stag_hunt_v0":
        assert reward > temptation >= punishment > sucker
    else:
        assert temptation > reward > sucker > punishment


def test_observation_is_the_last_joint_action_in_relative_order():
    game = social_dilemmas.make("ipd_v0", 2)
    assert game.reset().tolist() == [[[-1, 0], [-1, 0]]] * 2
    step = game.step(torch.tensor([[0, 1], [1, 1]]))
    assert step.obs.tolist() == [[[0, 1], [1, 0]], [[1, 1], [1, 1]]]
    assert step.outcomes["cooperated"].tolist() == [[1, 0], [0, 0]]
    assert game.state().tolist() == [2, 4]


def test_observation_of_three_agents_is_in_relative_order():
    game = social_dilemmas.make("public_goods_v0", 1, num_agents=3)
    assert game.reset()[0].tolist() == [[-1, 0, 0]] * 3
    assert game.step(torch.tensor([[0, 1, 0]])).obs[0].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_public_goods_by_hand():
    game = social_dilemmas.make("public_goods_v0", 3, num_agents=4, multiplier=2.0)
    game.reset()
    rewards = game.step(torch.tensor([[0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 1, 1]])).rewards
    np.testing.assert_allclose(rewards[0], [1.0] * 4)
    np.testing.assert_allclose(rewards[1], [-0.5, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(rewards[2], [0.0, 0.0, 1.0, 1.0])


@pytest.mark.parametrize("num_agents", [2, 3, 5])
def test_public_goods_is_a_dilemma(num_agents):
    payoffs = social_dilemmas.make("public_goods_v0", num_agents=num_agents, multiplier=1.5).payoffs
    assert (payoffs[1, ..., 0] > payoffs[0, ..., 0]).all()  # defection is dominant
    assert payoffs[(0,) * num_agents].sum() > payoffs[(1,) * num_agents].sum()  # mutual cooperation is better for all


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"payoffs": [[1.0, 2.0], [3.0, 4.0]]}, "shape 2x2"),
        ({"payoffs": [[[1.0, 2.0]], [[3.0]]]}, "regular table"),
        ({"payoffs": [[[1.0, 1.0], [0.0, float("nan")]], [[0.0, 0.0], [0.0, 0.0]]]}, "not finite"),
        ({"num_steps": 0}, "num_steps is 0"),
    ],
)
def test_invalid_payoff_tables_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        social_dilemmas.make("ipd_v0", **settings)


def test_invalid_public_goods_settings_are_refused():
    with pytest.raises(ValueError, match="only between 1 and num_agents"):
        social_dilemmas.make("public_goods_v0", num_agents=3, multiplier=3.0)
    with pytest.raises(ValueError, match="from 2 to 8"):
        social_dilemmas.make("public_goods_v0", num_agents=9)
