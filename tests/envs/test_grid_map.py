"""Tests maps, start cells and invalid settings of games on grids."""

import pytest

import social_dilemmas
from tests.helpers.grids import UP, WASTE, where


def test_start_cells():
    small = social_dilemmas.make("cleanup_v0", 50)
    small.reset(seed=0)
    assert {where(small, 0, env) for env in range(50)} == {(5, 2)}
    assert {where(small, 1, env) for env in range(50)} == {(1, 4)}
    assert (small._headings == UP).all()
    shuffled_game = social_dilemmas.make("cleanup_v0", 50, random_starts=True)
    shuffled_game.reset(seed=0)
    for agent in (0, 1):
        assert {where(shuffled_game, agent, env) for env in range(50)} == {(5, 2), (1, 4)}
    full = social_dilemmas.make("cleanup_v0", 500, map="full", num_agents=10)
    full.reset(seed=0)
    assert set(full._cells.flatten().tolist()) == set(full.map.starts)
    assert set(full._headings.flatten().tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("game_id", "preset", "counts"),
    [
        ("cleanup_v0", "small", (5, 2, 2, 0)),
        ("cleanup_v0", "medium", (12, 16, 8, 0)),
        ("cleanup_v0", "full", (103, 119, 56, 10)),
        ("cleanup_v0", "melting_pot", (122, 147, 79, 19)),
        ("harvest_v0", "small", (20, 0, 0, 8)),
        ("harvest_v0", "full", (155, 0, 0, 20)),
        ("harvest_v0", "melting_pot", (64, 0, 0, 60)),
    ],
)
def test_maps_have_the_published_counts(game_id, preset, counts):
    game = social_dilemmas.make(game_id, map=preset)
    river = game.map.blocks[1] if game_id == "cleanup_v0" else 0
    dirty = int((game.map.ground == WASTE).sum())
    assert (game.map.blocks[0], river, dirty, len(game.map.starts)) == counts


@pytest.mark.parametrize(
    ("game_id", "settings", "complaint"),
    [
        ("cleanup_v0", {"map": "smal"}, "there is no map 'smal'; did you mean 'small'"),
        ("cleanup_v0", {"map": "@@@\n@P@\n@@"}, "row 2 has 2 cells; all rows must have 3"),
        ("cleanup_v0", {"map": "@@@\n@X@\n@@@"}, "row 1, column 1: 'X' is not one of"),
        ("cleanup_v0", {"map": "@@@@\n@RB@\n@@@@"}, "5 agents have 0 start cells"),
        ("cleanup_v0", {"map": "full", "num_agents": 11}, "11 agents have 10 start cells"),
        ("cleanup_v0", {"map": "@@@@\n@11@\n@@@@"}, "digits are agent indices"),
        ("cleanup_v0", {"map": "@@@\n@@@"}, "0 cells are walkable"),
        ("cleanup_v0", {"map": "PPPPPB\nPPPPPP"}, "there is no river"),
        ("cleanup_v0", {"map": "PPPPPR\nPPPPPP"}, "there is no orchard"),
        ("cleanup_v0", {"num_agents": 40}, "from 2 to 31"),
        ("cleanup_v0", {"apple_chance": 1.5}, "apple_chance is 1.5; it must be from 0 to 1"),
        ("cleanup_v0", {"waste_threshold": 0.0}, "waste_threshold is 0"),
        ("cleanup_v0", {"view": 80}, "view is 80"),
        ("cleanup_v0", {"view": [1, 2]}, r"view is \[1, 2\]"),
        ("cleanup_v0", {"freeze_steps": 300}, "freeze_steps is 300; it must be from 0 to 255"),
        ("cleanup_v0", {"zap_costs": 1}, "no setting 'zap_costs'; did you mean 'zap_cost'"),
        ("harvest_v0", {"neighbours": 9}, "neighbours is 9; it must be one of 8, 12"),
        ("harvest_v0", {"growth": [0.1] * 10}, "growth has 10 probabilities"),
        ("harvest_v0", {"growth": [0.1, 2.0]}, r"growth\[1\] is 2.0"),
    ],
)
def test_invalid_settings_are_refused(game_id, settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        social_dilemmas.make(game_id, **settings)
