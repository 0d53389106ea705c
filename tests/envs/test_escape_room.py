"""Rewards, ends and observations of Escape Room, compared with values computed by hand."""

import pytest
import torch

import social_dilemmas

LEVER, START, DOOR = range(3)


def play(num_agents, num_levers, *joint_actions):
    """Returns the rewards of every step, and True if it ends the episode."""
    game = social_dilemmas.make("escape_room_v0", 2, num_agents=num_agents, num_levers=num_levers)
    game.reset(seed=0)
    steps = [game.step(torch.tensor([actions] * 2)) for actions in joint_actions]
    return [(step.rewards[0].tolist(), bool(step.terminated[0])) for step in steps]


def test_best_joint_returns():
    assert play(2, 1, [LEVER, DOOR]) == [([-1, 10], True)]
    assert play(3, 2, [LEVER, DOOR, LEVER]) == [([-1, 10, -1], True)]
    assert play(5, 3, [LEVER, DOOR, LEVER, LEVER, DOOR]) == [([-1, 10, -1, -1, 10], True)]


def test_moves_cost_and_staying_does_not():
    steps = [[DOOR, START], [DOOR, START], [DOOR, DOOR], [DOOR, LEVER]]
    assert play(2, 1, *steps) == [([-1, 0], False), ([0, 0], False), ([0, -1], False), ([10, -1], True)]


def test_agents_staying_at_the_lever_keep_the_door_open():
    assert play(2, 1, [LEVER, START], [LEVER, DOOR]) == [([-1, 0], False), ([0, 10], True)]
    # The lever must be chosen in the same step as the door, and by at least num_levers agents.
    assert play(2, 1, [LEVER, START], [START, DOOR]) == [([-1, 0], False), ([-1, -1], False)]
    assert play(3, 2, [LEVER, DOOR, START])[0] == ([-1, -1, 0], False)


def test_agents_see_themselves_first():
    game = social_dilemmas.make("escape_room_v0", num_agents=3)
    game.reset(seed=0)
    obs = game.step(torch.tensor([[LEVER, START, START]])).obs[0]
    assert obs[0].tolist() == [1, 0, 0, 0, 1, 0, 0, 1, 0]
    assert obs[1].tolist() == [0, 1, 0, 0, 1, 0, 1, 0, 0]
    assert obs[2].tolist() == [0, 1, 0, 1, 0, 0, 0, 1, 0]


def test_rendering():
    game = social_dilemmas.make("escape_room_v0", num_agents=3)
    game.reset(seed=0)
    assert game.render_ansi() == "lever | start 0 1 2 | door"
    game.step(torch.tensor([[LEVER, START, DOOR]]))
    assert game.render_ansi() == "lever 0 | start 1 | door 2 open"
    assert game.render_rgb().shape == (96, 288, 3)


def test_num_levers_must_be_below_num_agents():
    with pytest.raises(ValueError, match="num_levers is 2; it must be from 1 to 1"):
        social_dilemmas.make("escape_room_v0", num_levers=2)
