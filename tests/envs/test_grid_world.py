"""Tests moves of agents on grids, compared with cells found by hand."""

import pytest
import torch

import social_dilemmas
from tests.helpers.grids import DOWN, LEFT, RIGHT, ROOM, UP, play, situation, where


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
    occupancy = (game._cells == int(game.map.numbers[3, 4])).float()
    assert (occupancy.sum(0) == 1).all()
    # Three standard errors of a fraction of 6,000 environments.
    assert (occupancy.mean(1) - 1 / 3).abs().max() < 3 * (2 / 9 / 6000) ** 0.5


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
