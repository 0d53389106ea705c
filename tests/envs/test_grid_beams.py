"""Tests zaps and cleaning beams on grids, compared with rewards and cells found by hand."""

import numpy as np

from social_dilemmas.grid_beams import BEAM, FIRE, ONESELF, OTHERS
from tests.helpers.grids import (
    CLEAN_RIVER,
    LEFT,
    RIGHT,
    RIVER,
    ROOM,
    UP,
    WASTE,
    ground,
    play,
    situation,
    where,
)


def test_zap_hits_the_first_agent_on_each_ray():
    """The middle ray starts in front of the agent, side rays start next to it; a hit agent blocks the ray."""
    targets = [(4, 3, UP), (4, 5, UP), (3, 1, UP), (5, 5, UP), (5, 6, UP), (3, 6, UP)]
    game = situation(ROOM, [(4, 1, RIGHT), *targets])
    step = play(game, "zap", *["stay"] * 6)
    assert step.rewards[0].tolist() == [-1, -50, 0, -50, -50, 0, 0]
    assert step.outcomes["zaps"][0].tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert step.outcomes["disturbed"][0].tolist() == [0, 1, 0, 1, 1, 0, 0]


def test_walls_stop_beams_and_beams_are_visible_for_one_step():
    map_text = ROOM.replace("@       @", "@  @    @", 1)
    game = situation(map_text, [(2, 2, RIGHT), (2, 5, UP)])
    step = play(game, "zap", "stay")
    assert step.rewards[0].tolist() == [-1, 0]
    expected_cells = {(1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (3, 2), (3, 3), (3, 4), (3, 5), (3, 6)}
    beam_cells = np.argwhere((game._ground[:, 0] >= 8).numpy()[game.map.numbers])
    assert {tuple(cell) for cell in beam_cells.tolist()} == expected_cells
    # The second agent sees all cells of the beam, but the class of its own cell is that of itself.
    obs = step.obs[0, 1]
    assert (obs == FIRE).sum() == len(expected_cells)
    assert obs[7, 7] == ONESELF
    assert (play(game, "stay", "stay").obs != FIRE).all()


def test_cleaning_ray_cleans_only_the_first_dirty_cell():
    game = situation(RIVER, [(2, 6, LEFT), (4, 1, UP)])
    step = play(game, "clean", "stay")
    assert step.rewards[0].tolist() == [0, 0]
    assert step.outcomes["waste_cleaned"][0].tolist() == [3, 0]
    # Nine of twelve cells are dirty, too many for new waste: the clean cells are those that were cleaned.
    assert (ground(game)[1:4, 1:5] == [[WASTE] * 3 + [CLEAN_RIVER]] * 3).all()
    assert (step.obs[0, 0] == BEAM).sum() > 0


def test_agents_that_clean_the_same_cell_both_count():
    game = situation(RIVER, [(1, 6, LEFT), (3, 6, LEFT)])
    step = play(game, "clean", "clean")
    assert step.outcomes["waste_cleaned"][0].tolist() == [2, 2]
    assert (ground(game) == WASTE).sum() == 9


def test_agents_block_rays():
    game = situation(RIVER, [(2, 6, LEFT), (2, 7, LEFT)])
    step = play(game, "stay", "clean")
    assert step.outcomes["waste_cleaned"][0].tolist() == [0, 2]


def test_agents_hit_by_a_zap_are_removed_and_respawn_at_a_start_cell():
    game = situation(ROOM, [(4, 1, RIGHT), (4, 3, UP)], freeze_steps=3)
    step = play(game, "zap", "stay")
    assert step.rewards[0].tolist() == [-1, -50]
    assert (game._cells[1] == game.map.nowhere).all()
    assert (step.obs[0, 0] != OTHERS).all(), "removed agents are not visible"
    for _ in range(2):
        step = play(game, "stay", "forward")
        assert step.outcomes["disturbed"][0].tolist() == [0, 1]
        assert (game._cells[1] == game.map.nowhere).all()
    step = play(game, "stay", "stay")
    assert all(where(game, 1, env)[0] == 7 for env in range(3))
    assert step.outcomes["disturbed"][0].tolist() == [0, 0]
    assert (step.obs[0, 0] == OTHERS).sum() <= 1


def test_beams_have_cooldowns():
    game = situation(ROOM, [(4, 1, RIGHT), (4, 3, UP)], zap_cooldown=2, clean_cooldown=1)
    steps = [play(game, "zap", "clean") for _ in range(7)]
    assert [float(step.rewards[0, 0]) for step in steps] == [-1, 0, 0, -1, 0, 0, -1]
    assert [float(step.rewards[0, 1]) for step in steps] == [-50, 0, 0, -50, 0, 0, -50]
