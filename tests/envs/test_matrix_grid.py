"""Matrix games in a grid, worked out by hand."""

import numpy as np
import pytest
import torch

import social_dilemmas
from social_dilemmas.grid_world import FIRE, OTHERS
from tests.helpers.grids import DOWN, LEFT, RIGHT, UP, ground, play, situation, where

ROOM = "\n".join(["@@@@@@@@", "@ab   P@", "@ab   P@", "@ab   P@", "@     P@", "@@@@@@@@"])
SAND, WALL, TOKEN_A, TOKEN_B = range(4)


def room(poses, **settings):
    return situation(ROOM, poses, "matrix_grid_v0", regrowth=0.0, **settings)


def give(game, *tokens):
    """Tokens of each kind that each agent has."""
    game._tokens[:] = torch.tensor(tokens, dtype=torch.uint8).t()[..., None]


def test_tokens_are_taken_by_who_steps_on_them():
    game = room([(1, 3, LEFT), (4, 4, UP)])
    step = play(game, "forward", "stay")
    assert game._tokens[..., 0].tolist() == [[0, 0], [1, 0]]
    assert step.outcomes["tokens"][0].tolist() == [1, 0]
    assert ground(game)[1, 2] == SAND
    step = play(game, "forward", "stay")
    assert game._tokens[..., 0].tolist() == [[1, 0], [1, 0]]
    assert step.rewards[0].tolist() == [0, 0]
    assert play(game, "stay", "stay").outcomes["tokens"][0].tolist() == [0, 0]


def test_rewards_are_those_of_the_shares():
    """With one of each kind at the start: (3, 1) of 4 against (1, 2) of 3."""
    game = room([(2, 3, RIGHT), (2, 5, LEFT)])
    give(game, (2, 0), (0, 1))
    step = play(game, "interact", "stay")
    x, y = (3 / 4, 1 / 4), (1 / 3, 2 / 3)
    first = 3 * x[0] * y[0] + 5 * x[1] * y[0] + x[1] * y[1]
    second = 3 * x[0] * y[0] + 5 * x[0] * y[1] + x[1] * y[1]
    np.testing.assert_allclose(step.rewards[0], [first, second], rtol=1e-6)
    np.testing.assert_allclose(step.outcomes["first_shares"][0], [3 / 4, 1 / 3], rtol=1e-6)
    assert step.outcomes["interactions"][0].tolist() == [1, 1]
    rates = game.summarize({name: 2 * values[:1] for name, values in step.outcomes.items()}, 10)
    np.testing.assert_allclose(rates["cooperation_rate"][0], [3 / 4, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(rates["interactions_per_step"][0], [0.2, 0.2], rtol=1e-6)


@pytest.mark.parametrize("shooter", [0, 1])
def test_the_earlier_agent_chooses_the_row_whoever_fires(shooter):
    table = [[[1, 10], [2, 20]], [[3, 30], [4, 40]]]
    game = room([(2, 3, RIGHT), (2, 5, LEFT)], payoffs=table, initial_tokens=0)
    give(game, (1, 0), (0, 1))
    actions = ["stay", "stay"]
    actions[shooter] = "interact"
    assert play(game, *actions).rewards[0].tolist() == [2, 20]


def test_three_kinds():
    """Rock, paper, scissors."""
    wins = [[0, -1, 1], [1, 0, -1], [-1, 1, 0]]
    table = [[[wins[i][j], wins[j][i]] for j in range(3)] for i in range(3)]
    game = room([(2, 3, RIGHT), (2, 5, LEFT)], payoffs=table, initial_tokens=0)
    give(game, (0, 0, 4), (0, 2, 0))
    assert play(game, "interact", "interact").rewards[0].tolist() == [1, -1]
    assert game.reward_range == (-1, 1)


def test_who_has_no_token_does_not_interact():
    game = room([(2, 3, RIGHT), (2, 5, LEFT)])
    give(game, (1, 0), (0, 0))
    step = play(game, "interact", "interact")
    assert step.outcomes["interactions"][0].tolist() == [0, 0]
    assert (step.rewards == 0).all()
    assert game._tokens[..., 0].tolist() == [[1, 0], [0, 0]]
    # The beam is seen all the same, and one has to wait.
    assert (step.obs[0, 1] == FIRE).any()
    give(game, (1, 0), (1, 0))
    rewards = [float(play(game, "interact", "stay").rewards[0, 0]) for _ in range(3)]
    assert rewards == pytest.approx([0, 0, 3 * (2 / 3) ** 2 + 5 * 2 / 9 + 1 / 9])


def test_who_interacted_is_away_has_nothing_and_remembers():
    game = room([(2, 3, RIGHT), (2, 5, LEFT)], freeze_steps=2, view=3)
    give(game, (2, 1), (0, 3))
    step = play(game, "interact", "stay")
    assert (game._cells == game.map.nowhere).all()
    assert (game._tokens == 0).all()
    # Below the view of 7x7: what one has; what one had; what the other had.
    bars = step.obs[0, :, 7:]
    assert (
        bars[0]
        == torch.tensor([[SAND] * 7] * 2 + [[2, 2, *[SAND] * 5], [3, *[SAND] * 6], [SAND] * 7, [3, 3, 3, *[SAND] * 4]])
    ).all()
    assert (bars[1, 2:4] == bars[0, 4:6]).all()
    assert (bars[1, 4:6] == bars[0, 2:4]).all()
    play(game, "forward", "forward")
    assert (game._cells == game.map.nowhere).all()
    play(game, "stay", "stay")
    assert all(where(game, agent, copy)[1] == 6 for agent in (0, 1) for copy in range(3))
    assert (game._observe()[0, :, 7:] == bars).all()


def test_who_stays_on_the_map_may_meet_again():
    game = room([(2, 3, RIGHT), (2, 5, LEFT)], freeze_steps=0)
    give(game, (2, 1), (0, 3))
    play(game, "interact", "stay")
    assert (where(game, 0), where(game, 1)) == ((2, 3), (2, 5))
    assert (game._tokens == 0).all()


def test_tokens_come_back_when_nobody_is_there_and_by_chance():
    game = room([(1, 3, LEFT), (2, 4, LEFT)])
    give(game, (1, 0), (1, 0))
    play(game, "forward", "stay")
    assert ground(game)[1, 2] == SAND
    play(game, "turn_left", "stay")
    play(game, "turn_left", "stay")
    assert ground(game)[1, 2] == SAND
    # The side ray starts beside the agent.
    assert play(game, "interact", "stay").outcomes["interactions"][0].tolist() == [1, 1]
    assert ground(game)[1, 2] == TOKEN_B
    game = situation(ROOM, [(1, 3, LEFT), (4, 6, UP)], "matrix_grid_v0", copies=20_000, regrowth=0.1)
    play(game, "forward", "stay")
    play(game, "back", "stay")
    assert float((game._ground[int(game.map.numbers[1, 2])] == TOKEN_B).float().mean()) == pytest.approx(0.1, abs=0.01)


def test_nobody_interacts_with_two_at_once():
    """The first reaches two; both pairs are as likely."""
    poses = [(2, 3, RIGHT), (1, 5, LEFT), (2, 5, LEFT), (4, 6, DOWN)]
    game = situation(ROOM, poses, "matrix_grid_v0", copies=4000, regrowth=0.0)
    give(game, *[(1, 0)] * 4)
    met = play(game, "interact", "stay", "stay", "stay").outcomes["interactions"]
    assert (met[:, 0] == 1).all()
    assert (met[:, 3] == 0).all()
    assert (met[:, 1] + met[:, 2] == 1).all()
    assert float(met[:, 1].mean()) == pytest.approx(0.5, abs=0.03)


def test_two_pairs_meet_in_one_step():
    poses = [(1, 3, RIGHT), (3, 3, RIGHT), (1, 5, LEFT), (3, 5, LEFT)]
    game = situation(ROOM, poses, "matrix_grid_v0", regrowth=0.0, beam_length=2, initial_tokens=0)
    give(game, (1, 0), (1, 0), (0, 1), (1, 0))
    step = play(game, "interact", "interact", "stay", "stay")
    assert step.rewards[0].tolist() == [0, 3, 5, 3]


def test_a_kind_may_be_drawn_for_each_episode():
    text = ROOM.replace("a", "?")
    game = social_dilemmas.make("matrix_grid_v0", 4000, map=text)
    game.reset(seed=1)
    drawn = game._ground[game.map.numbers[1, 1]]
    assert set(drawn.tolist()) == {TOKEN_A, TOKEN_B}
    assert float((drawn == TOKEN_A).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert (game._ground[game.map.numbers[1, 2]] == TOKEN_B).all()


def test_the_state_shows_what_everybody_has():
    game = room([(2, 3, RIGHT), (2, 5, LEFT)])
    give(game, (2, 0), (9, 1))
    state = game.state()[0]
    assert state.shape == (6 + 4, 8)
    assert state[6].tolist() == [2, 2, *[SAND] * 6]
    assert state[7].tolist() == [SAND] * 8
    assert state[8].tolist() == [2] * 8, "a bar is as long as there are columns"
    assert state[9].tolist() == [3, *[SAND] * 7]


def test_the_published_counts():
    game = social_dilemmas.make("matrix_grid_v0", map="melting_pot")
    assert game.map.size == (15, 23)
    assert int(game._drawn.sum()) == 12
    assert [int((~game._drawn[:, 0] & (game._kinds[:, 0] == kind)).sum()) for kind in (TOKEN_A, TOKEN_B)] == [12, 12]
    assert len(game.map.starts) == 13
    assert game.observation_space.shape == (5 + 6, 5)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"payoffs": "stag_hant"}, "there is no table 'stag_hant'; did you mean 'stag_hunt'"),
        ({"payoffs": [[[1, 1], [2, 2]]]}, "payoffs has shape 1x2x2; it must be K x K x 2"),
        ({"payoffs": [[[1, 1], [2]]]}, "payoffs is not a regular table"),
        ({"payoffs": [[[1, 1], [2, float("nan")]], [[1, 1], [1, 1]]]}, "not finite"),
        ({"payoffs": 3.0}, "payoffs has shape"),
        ({"map": "@@@@\n@PP@\n@@@@"}, "there are no tokens; add some of a, b, ?"),
        ({"map": "@@@@\n@Pc@\n@@@@"}, "row 1, column 2: 'c' is not one of"),
        ({"regrowth": 2.0}, "regrowth is 2"),
        ({"initial_tokens": -1}, "initial_tokens is -1"),
        ({"cooldown": 300}, "interact is 300; it must be from 0 to 255"),
    ],
)
def test_bad_settings_are_said(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        social_dilemmas.make("matrix_grid_v0", **settings)


def test_others_are_seen_where_they_are():
    game = room([(2, 3, RIGHT), (2, 5, LEFT)], view=3)
    assert game._observe()[0, 0, 1, 3] == OTHERS
