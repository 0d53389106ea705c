"""Moves, beams, growth and observations on grids, compared with values computed by hand."""

import numpy as np
import pytest
import torch

import social_dilemmas
from social_dilemmas.grid_beams import BEAM, FIRE, ONESELF, OTHERS
from tests.helpers.grids import DOWN, LEFT, RIGHT, UP, ground, lay, play, situation, where

ROOM = "\n".join(["@" * 9, "@R    B @", *["@       @"] * 5, "@PPPPPPP@", "@" * 9])
RIVER = "\n".join(["@" * 9, *["@HHHH PB@"] * 3, "@PPPPPP @", "@" * 9])
SAND, WALL, APPLE, STREAM, CLEAN_RIVER, WASTE = range(6)


def test_agents_can_follow_each_other():
    game = situation(ROOM, [(3, 3, RIGHT), (3, 4, RIGHT)])
    play(game, "forward", "forward")
    assert (where(game, 0), where(game, 1)) == ((3, 4), (3, 5))


def test_row_of_agents_against_a_wall_stays():
    game = situation(ROOM, [(3, 5, RIGHT), (3, 6, RIGHT), (3, 7, RIGHT)])
    play(game, *["forward"] * 3)
    assert [where(game, k) for k in range(3)] == [(3, 5), (3, 6), (3, 7)]


def test_agents_cannot_swap_cells_but_can_rotate():
    game = situation(ROOM, [(3, 3, RIGHT), (3, 4, LEFT)])
    play(game, "forward", "forward")
    assert (where(game, 0), where(game, 1)) == ((3, 3), (3, 4))
    game = situation(ROOM, [(2, 2, RIGHT), (2, 3, DOWN), (3, 3, LEFT), (3, 2, UP)])
    play(game, *["forward"] * 4)
    assert [where(game, k) for k in range(4)] == [(2, 3), (3, 3), (3, 2), (2, 2)]


def test_conflicts_over_a_cell_are_resolved_uniformly():
    game = situation(ROOM, [(3, 3, RIGHT), (3, 5, LEFT), (2, 4, DOWN)], copies=6000)
    play(game, *["forward"] * 3)
    occupied = (game._cells == int(game.map.numbers[3, 4])).float()
    assert (occupied.sum(0) == 1).all()
    # Three standard errors of a fraction of 6,000 environments.
    assert (occupied.mean(1) - 1 / 3).abs().max() < 3 * (2 / 9 / 6000) ** 0.5


def test_one_agent_gets_the_cell_if_the_draws_are_equal(monkeypatch):
    game = situation(ROOM, [(3, 3, RIGHT), (3, 5, LEFT)])
    monkeypatch.setattr(game, "_uniform", lambda *shape, copies_last: torch.full((*shape, 3), 0.5))
    play(game, "forward", "forward")
    assert (where(game, 0), where(game, 1)) == ((3, 4), (3, 5))


def test_agents_that_stay_or_are_blocked_keep_their_cells():
    game = situation(ROOM, [(3, 3, RIGHT), (3, 5, LEFT), (3, 4, UP)], copies=50)
    play(game, "forward", "forward", "stay")
    assert {where(game, 0, env) for env in range(50)} == {(3, 3)}
    assert {where(game, 1, env) for env in range(50)} == {(3, 5)}
    # Two agents move to the cell of a third agent, which is blocked by a fourth.
    game = situation(ROOM, [(3, 3, RIGHT), (2, 4, DOWN), (3, 4, RIGHT), (3, 5, UP)], copies=50)
    play(game, "forward", "forward", "forward", "stay")
    for env in range(50):
        assert [where(game, k, env) for k in range(4)] == [(3, 3), (2, 4), (3, 4), (3, 5)]


def test_moves_are_relative_to_the_heading():
    game = situation(ROOM, [(3, 3, UP), (6, 6, UP)])
    play(game, "turn_right", "stay")
    assert (game._headings[0] == RIGHT).all()
    play(game, "left", "stay")
    assert where(game, 0) == (2, 3)
    play(game, "back", "stay")
    assert where(game, 0) == (2, 2)
    play(game, "turn_left", "stay")
    play(game, "turn_left", "stay")
    play(game, "right", "stay")
    assert (where(game, 0), int(game._headings[0, 0])) == ((1, 2), LEFT)


@pytest.mark.parametrize("game_id", ["cleanup_v0", "harvest_v0"])
@pytest.mark.parametrize("agents", [2, 3, 10, 31])
def test_agents_never_share_a_cell(game_id, agents):
    game = social_dilemmas.make(game_id, 32, map="melting_pot", num_agents=min(agents, 19), num_steps=400)
    game.reset(seed=1)
    generator = torch.Generator().manual_seed(2)
    for _ in range(200):
        game.step(torch.randint(int(game.action_space.n), (32, game.num_agents), generator=generator))
        on_map = torch.where(game._gone > 0, -1 - torch.arange(game.num_agents)[:, None], game._cells)
        assert (on_map.sort(0).values.diff(dim=0) > 0).all()
        assert ((game._cells < game.map.wall) == (game._gone == 0)).all()


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


def test_agents_eat_apples_by_stepping_on_them():
    orchard = "\n".join(["@" * 7, "@AAAAA@", "@PPPPP@", "@" * 7])
    game = situation(orchard, [(2, 2, UP), (2, 4, UP)], "harvest_v0")
    step = play(game, "forward", "stay")
    assert step.rewards[0].tolist() == [1, 0]
    assert step.outcomes["apple_steps"][0].tolist() == [1, 0]
    assert (ground(game) == APPLE).sum() == 4
    play(game, "stay", "forward")
    rates = game.summarize({"apples": torch.tensor([2.0]), "apple_steps": torch.tensor([3.0])}, 4)
    assert {name: value.tolist() for name, value in rates.items()} == {
        "apples_per_step": [0.5],
        "sustainability": [1.5],
    }


@pytest.mark.parametrize(("dirty", "expected"), [(0, 0.05), (4, 0.03), (8, 0.01), (10, 0.0), (25, 0.0)])
def test_apple_growth_depends_on_the_dirty_fraction_of_the_river(dirty, expected):
    """Apples grow with probability 0.05 * (1 - d / 0.4) for dirty fraction d; one cell turns dirty unless d >= 0.4."""
    rows = ["H" * dirty + "R" * (25 - dirty), "B" * 25, "P" * 25]
    text = "\n".join(["@" * 27, *[f"@{row}@" for row in rows], "@" * 27])
    game = situation(text, [(3, 1, UP), (3, 2, UP)], copies=20_000)
    play(game, "stay", "stay")
    grown = (game._ground[: game._orchard] == APPLE).float()
    assert float(grown.mean()) == pytest.approx(expected, abs=0.001)
    num_dirty = (game._ground[25:50] == WASTE).sum(0)
    assert (num_dirty == dirty + (dirty < 10)).all()


def test_clean_cells_turn_dirty_with_equal_probability():
    text = "\n".join(["@" * 7, "@RHRRR@", "@BPPPP@", "@" * 7])
    game = situation(text, [(2, 2, UP), (2, 3, UP)], copies=40_000, waste_limit=1.0)
    play(game, "stay", "stay")
    river = (game._ground[game._orchard : game._orchard + 5] == WASTE).float().mean(1)
    assert river[1] == 1.0
    # Four clean cells turn dirty with probability 0.5 in random order, until one is dirty.
    expected = (1 - 0.5**4) / 4
    np.testing.assert_allclose(river[[0, 2, 3, 4]].numpy(), expected, atol=4 * (expected / 40_000) ** 0.5)


@pytest.mark.parametrize(("around", "expected"), [(0, 0.0), (1, 0.005), (2, 0.02), (3, 0.05), (8, 0.05)])
def test_apple_growth_depends_on_adjacent_apples(around, expected):
    text = "\n".join(["@" * 7, *["@AAA  @"] * 3, "@PPP  @", "@" * 7])
    game = situation(text, [(4, 3, UP), (4, 1, UP)], "harvest_v0", copies=40_000)
    cells = [(row, column) for row in (1, 2, 3) for column in (1, 2, 3)]
    lay(game, cells, SAND)
    lay(game, [cell for cell in cells if cell != (2, 2)][:around], APPLE)
    play(game, "stay", "stay")
    grown = float((game._ground[int(game.map.numbers[2, 2])] == APPLE).float().mean())
    assert grown == pytest.approx(expected, abs=0.0035)


def test_twelve_neighbors_are_the_cells_within_distance_two():
    text = "\n".join(["@" * 7, *["@AAAAA@"] * 5, "@PP   @", "@" * 7])
    growth = [k / 12 for k in range(13)]
    game = situation(text, [(6, 1, UP), (6, 2, UP)], "harvest_v0", copies=20_000, neighbours=12, growth=growth)
    lay(game, [(row, column) for row in range(1, 6) for column in range(1, 6)], SAND)
    lay(game, [(1, 3), (2, 2), (1, 1), (5, 5), (3, 5)], APPLE)
    play(game, "stay", "stay")
    grown = float((game._ground[int(game.map.numbers[3, 3])] == APPLE).float().mean())
    assert grown == pytest.approx(3 / 12, abs=0.012), "corners are too far"


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


def test_start_cells():
    small = social_dilemmas.make("cleanup_v0", 50)
    small.reset(seed=0)
    assert {where(small, 0, env) for env in range(50)} == {(5, 2)}
    assert {where(small, 1, env) for env in range(50)} == {(1, 4)}
    assert (small._headings == UP).all()
    shuffled = social_dilemmas.make("cleanup_v0", 50, random_starts=True)
    shuffled.reset(seed=0)
    for agent in (0, 1):
        assert {where(shuffled, agent, env) for env in range(50)} == {(5, 2), (1, 4)}
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


def test_random_play_has_the_returns_of_the_reference_implementation():
    """Apples per agent in 1,000 steps of SSD without zaps: 4.5 +- 0.7 in Cleanup, 60.0 +- 2.6 in Harvest."""
    for game_id, reference, error in (("cleanup_v0", 4.5, 0.7), ("harvest_v0", 60.0, 2.6)):
        game = social_dilemmas.make(game_id, 64, map="full", zapping=False)
        game.reset(seed=3)
        generator = torch.Generator().manual_seed(4)
        apples = torch.zeros(64, 5)
        for _ in range(1000):
            # Samples actions with the same probabilities as with zapping, and replaces zaps by stay.
            actions = torch.randint(8 + (game_id == "cleanup_v0"), (64, 5), generator=generator)
            actions = torch.where(actions == 7, game._stay, actions)
            actions = torch.where(actions == 8, game.action_space.n - 1, actions)
            apples += game.step(actions).rewards
        std_error = float(apples.mean(1).std() / 8)
        assert abs(float(apples.mean()) - reference) < 2 * (error**2 + std_error**2) ** 0.5, (game_id, apples.mean())


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
