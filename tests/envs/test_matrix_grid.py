"""Interactions, tokens and observations of matrix games on a grid, compared with values computed by hand."""

import numpy as np
import pytest
import torch

import social_dilemmas
from social_dilemmas.grid_beams import FIRE, OTHERS
from tests.helpers.grids import DOWN, LEFT, RIGHT, UP, ground, play, situation, where

ROOM = "\n".join(["@@@@@@@@", "@ab   P@", "@ab   P@", "@ab   P@", "@     P@", "@@@@@@@@"])
SAND, WALL, TOKEN_A, TOKEN_B = range(4)


def make_room(poses, **settings):
    return situation(ROOM, poses, "matrix_grid_v0", regrowth=0.0, **settings)


def set_tokens(game, *tokens):
    """Sets the number of tokens of every kind for all agents, one tuple per agent."""
    game._tokens[:] = torch.tensor(tokens, dtype=torch.uint8).t()[..., None]


def test_agents_collect_tokens_by_stepping_on_them():
    game = make_room([(1, 3, LEFT), (4, 4, UP)])
    step = play(game, "forward", "stay")
    assert game._tokens[..., 0].tolist() == [[0, 0], [1, 0]]
    assert step.outcomes["tokens"][0].tolist() == [1, 0]
    assert ground(game)[1, 2] == SAND
    step = play(game, "forward", "stay")
    assert game._tokens[..., 0].tolist() == [[1, 0], [1, 0]]
    assert step.rewards[0].tolist() == [0, 0]
    assert play(game, "stay", "stay").outcomes["tokens"][0].tolist() == [0, 0]


def test_rewards_are_those_of_the_mixed_strategies():
    """With one initial token of each kind, the strategies are (3, 1) / 4 against (1, 2) / 3."""
    game = make_room([(2, 3, RIGHT), (2, 5, LEFT)])
    set_tokens(game, (2, 0), (0, 1))
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
def test_agent_with_the_lower_index_is_the_row_player(shooter):
    table = [[[1, 10], [2, 20]], [[3, 30], [4, 40]]]
    game = make_room([(2, 3, RIGHT), (2, 5, LEFT)], payoffs=table, initial_tokens=0)
    set_tokens(game, (1, 0), (0, 1))
    actions = ["stay", "stay"]
    actions[shooter] = "interact"
    assert play(game, *actions).rewards[0].tolist() == [2, 20]


def test_rock_paper_scissors():
    """Plays a game with three kinds of tokens."""
    row_payoffs = [[0, -1, 1], [1, 0, -1], [-1, 1, 0]]
    table = [[[row_payoffs[i][j], row_payoffs[j][i]] for j in range(3)] for i in range(3)]
    game = make_room([(2, 3, RIGHT), (2, 5, LEFT)], payoffs=table, initial_tokens=0)
    set_tokens(game, (0, 0, 4), (0, 2, 0))
    assert play(game, "interact", "interact").rewards[0].tolist() == [1, -1]
    assert game.reward_range == (-1, 1)


def test_agents_without_tokens_do_not_interact():
    game = make_room([(2, 3, RIGHT), (2, 5, LEFT)])
    set_tokens(game, (1, 0), (0, 0))
    step = play(game, "interact", "interact")
    assert step.outcomes["interactions"][0].tolist() == [0, 0]
    assert (step.rewards == 0).all()
    assert game._tokens[..., 0].tolist() == [[1, 0], [0, 0]]
    # The beam is visible nevertheless, and the cooldown starts.
    assert (step.obs[0, 1] == FIRE).any()
    set_tokens(game, (1, 0), (1, 0))
    rewards = [float(play(game, "interact", "stay").rewards[0, 0]) for _ in range(3)]
    assert rewards == pytest.approx([0, 0, 3 * (2 / 3) ** 2 + 5 * 2 / 9 + 1 / 9])


def test_interacting_agents_are_removed_and_observe_their_last_interaction():
    game = make_room([(2, 3, RIGHT), (2, 5, LEFT)], freeze_steps=2, view=3)
    set_tokens(game, (2, 1), (0, 3))
    step = play(game, "interact", "stay")
    assert (game._cells == game.map.nowhere).all()
    assert (game._tokens == 0).all()
    # Bars below the view of 7x7 cells: current tokens, tokens at the last interaction, those of the partner.
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
    assert all(where(game, agent, env)[1] == 6 for agent in (0, 1) for env in range(3))
    assert (game._observe()[0, :, 7:] == bars).all()


def test_agents_stay_on_the_map_without_freezing():
    game = make_room([(2, 3, RIGHT), (2, 5, LEFT)], freeze_steps=0)
    set_tokens(game, (2, 1), (0, 3))
    play(game, "interact", "stay")
    assert (where(game, 0), where(game, 1)) == ((2, 3), (2, 5))
    assert (game._tokens == 0).all()


def test_tokens_regrow_at_random_or_when_the_map_is_empty():
    game = make_room([(1, 3, LEFT), (2, 4, LEFT)])
    set_tokens(game, (1, 0), (1, 0))
    play(game, "forward", "stay")
    assert ground(game)[1, 2] == SAND
    play(game, "turn_left", "stay")
    play(game, "turn_left", "stay")
    assert ground(game)[1, 2] == SAND
    # The side ray starts next to the agent.
    assert play(game, "interact", "stay").outcomes["interactions"][0].tolist() == [1, 1]
    assert ground(game)[1, 2] == TOKEN_B
    game = situation(ROOM, [(1, 3, LEFT), (4, 6, UP)], "matrix_grid_v0", copies=20_000, regrowth=0.1)
    play(game, "forward", "stay")
    play(game, "back", "stay")
    assert float((game._ground[int(game.map.numbers[1, 2])] == TOKEN_B).float().mean()) == pytest.approx(0.1, abs=0.01)


def test_agents_interact_with_one_agent_at_a_time():
    """The beam of the first agent reaches two agents; both pairs have the same probability."""
    poses = [(2, 3, RIGHT), (1, 5, LEFT), (2, 5, LEFT), (4, 6, DOWN)]
    game = situation(ROOM, poses, "matrix_grid_v0", copies=4000, regrowth=0.0)
    set_tokens(game, *[(1, 0)] * 4)
    interactions = play(game, "interact", "stay", "stay", "stay").outcomes["interactions"]
    assert (interactions[:, 0] == 1).all()
    assert (interactions[:, 3] == 0).all()
    assert (interactions[:, 1] + interactions[:, 2] == 1).all()
    assert float(interactions[:, 1].mean()) == pytest.approx(0.5, abs=0.03)


def test_two_pairs_meet_in_one_step():
    poses = [(1, 3, RIGHT), (3, 3, RIGHT), (1, 5, LEFT), (3, 5, LEFT)]
    game = situation(ROOM, poses, "matrix_grid_v0", regrowth=0.0, beam_length=2, initial_tokens=0)
    set_tokens(game, (1, 0), (1, 0), (0, 1), (1, 0))
    step = play(game, "interact", "interact", "stay", "stay")
    assert step.rewards[0].tolist() == [0, 3, 5, 3]


def test_token_kinds_can_be_drawn_at_reset():
    text = ROOM.replace("a", "?")
    game = social_dilemmas.make("matrix_grid_v0", 4000, map=text)
    game.reset(seed=1)
    kinds = game._ground[game.map.numbers[1, 1]]
    assert set(kinds.tolist()) == {TOKEN_A, TOKEN_B}
    assert float((kinds == TOKEN_A).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert (game._ground[game.map.numbers[1, 2]] == TOKEN_B).all()


def test_state_shows_the_tokens_of_all_agents():
    game = make_room([(2, 3, RIGHT), (2, 5, LEFT)])
    set_tokens(game, (2, 0), (9, 1))
    state = game.state()[0]
    assert state.shape == (6 + 4, 8)
    assert state[6].tolist() == [2, 2, *[SAND] * 6]
    assert state[7].tolist() == [SAND] * 8
    assert state[8].tolist() == [2] * 8, "a bar has at most one cell per column"
    assert state[9].tolist() == [3, *[SAND] * 7]


def test_map_has_the_published_counts():
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
def test_invalid_settings_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        social_dilemmas.make("matrix_grid_v0", **settings)


def test_views_show_other_agents_at_their_cells():
    game = make_room([(2, 3, RIGHT), (2, 5, LEFT)], view=3)
    assert game._observe()[0, 0, 1, 3] == OTHERS
