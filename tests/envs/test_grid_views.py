"""Tests observations and pictures of games on grids, compared with maps rotated by hand."""

import numpy as np
import pytest

from social_dilemmas.grid_world import ONESELF, OTHERS
from tests.helpers.grids import (
    DOWN,
    LEFT,
    RIGHT,
    ROOM,
    UP,
    WALL,
    ground,
    play,
    situation,
)


@pytest.mark.parametrize(("heading", "ahead"), [(UP, (2, 4)), (RIGHT, (3, 5)), (DOWN, (4, 4)), (LEFT, (3, 3))])
def test_views_face_up_and_distinguish_agents(heading, ahead):
    game = situation(ROOM, [(3, 4, heading), (*ahead, UP), (6, 7, UP)])
    obs = game._observe()[0]
    assert obs[0, 7, 7] == ONESELF
    assert obs[0, 6, 7] == OTHERS
    assert (obs[0] == OTHERS + 1).sum() == 1
    # Classes are in the order of agents after the observing one: third, then first, for the second agent.
    assert (obs[1] == OTHERS).sum() == 1
    assert (obs[1] == OTHERS + 1).sum() == 1
    offset = np.argwhere(obs[1].numpy() == OTHERS)[0] - 7
    assert tuple(offset) == (6 - ahead[0], 7 - ahead[1])


def test_views_show_the_cells_around_the_agent():
    """Compares views with a map that is rotated by NumPy."""
    game = situation(ROOM, [(2, 3, UP), (5, 6, UP)], view=(4, 1, 3))
    for heading in range(4):
        game._headings[0] = heading
        scene = np.full((9 + 20, 9 + 20), WALL)
        scene[10:19, 10:19] = ground(game)
        scene[10 + 5, 10 + 6] = OTHERS
        scene[10 + 2, 10 + 3] = ONESELF
        expected = np.rot90(scene[10 + 2 - 6 : 10 + 2 + 7, 10 + 3 - 6 : 10 + 3 + 7], heading)
        assert (game._observe()[0, 0].numpy() == expected[6 - 4 : 6 + 2, 6 - 3 : 6 + 4]).all()


def test_map_view_shows_the_whole_map():
    game = situation(ROOM, [(2, 3, RIGHT), (5, 6, UP), (7, 7, UP)], view="map")
    for agent, ((r0, c0), (r1, c1), (r2, c2)) in enumerate(
        [((2, 3), (5, 6), (7, 7)), ((5, 6), (7, 7), (2, 3)), ((7, 7), (2, 3), (5, 6))]
    ):
        expected = ground(game).copy()
        expected[r0, c0], expected[r1, c1], expected[r2, c2] = ONESELF, OTHERS, OTHERS + 1
        assert (game._observe()[0, agent].numpy() == expected).all()
    state = game.state()[0].numpy()
    assert (state[2, 3], state[5, 6], state[7, 7]) == (ONESELF + RIGHT, ONESELF + 4, ONESELF + 8)


def test_text_and_images_show_agents_at_their_cells():
    game = situation(ROOM, [(2, 3, RIGHT), (5, 6, DOWN)], waste_chance=0.0)
    play(game, "zap", "stay")
    lines = game.render_ansi().splitlines()[1:]
    assert lines[2][6:8] == ">0"
    assert lines[5][12:14] == "v1"
    assert lines[2][8:10] == " *"
    assert lines[1][2:4] == " ~"
    assert game.render_rgb().shape[1] == 240
    assert game.render_rgb().shape[0] > 9 * 24
