import pytest
import torch

import social_dilemmas
from social_dilemmas.cleanup_lite import RIVER, WASTE
from social_dilemmas.orchard import APPLE


def make_game(num_games=1, **settings):
    game = social_dilemmas.make("cleanup_lite_v0", num_games, **settings)
    game.reset(seed=0)
    return game


def place(game, **cells):
    """Places agents on cells, given as (row, column)."""
    for agent, cell in cells.items():
        number = int(game.map.numbers[cell])
        game._cells[int(agent.removeprefix("player_"))] = number
    return game


def act(game, *names):
    return game.step(torch.tensor([[game.action_names.index(name) for name in names]]).expand(game.num_games, -1))


def test_sizes_and_actions():
    game = make_game()
    assert game.observation_space.shape == (4, 5)
    assert game.action_names == ("left", "right", "forward", "back", "stay", "zap")
    assert game.map.blocks[:2] == (4, 4)


def test_walking_over_waste_cleans_it_and_over_an_apple_eats_it():
    game = place(make_game(waste_chance=0.0), player_0=(0, 1), player_1=(0, 3))
    ground = game._ground
    ground[int(game.map.numbers[0, 0])] = WASTE
    ground[int(game.map.numbers[0, 4])] = APPLE
    step = act(game, "left", "right")
    assert step.rewards.tolist() == [[0.0, 1.0]]
    assert step.outcomes["waste_cleaned"].tolist() == [[1.0, 0.0]]
    assert int(game._ground[int(game.map.numbers[0, 0])]) == RIVER
    assert int((game._ground == WASTE).sum()) == 0


@pytest.mark.parametrize(("cell", "hit"), [((0, 3), True), ((1, 2), True), ((2, 3), False), ((3, 1), False)])
def test_zaps_reach_two_steps_and_freeze(cell, hit):
    game = place(make_game(zap_chance=1.0, waste_chance=0.0, freeze_steps=2), player_0=(0, 1), player_1=cell)
    step = act(game, "zap", "stay")
    assert step.outcomes["zaps"].tolist() == [[1.0, 0.0]]
    assert game._frozen[:, 0].tolist() == [0, 2 * hit]
    row, _ = cell
    moves = []
    for _ in range(3):
        before = game._cells[1].clone()
        # Moves into a free direction, so that the agent is not stopped by a wall.
        step = act(game, "stay", "forward" if row else "back")
        moves.append(not torch.equal(before, game._cells[1]))
        place(game, player_1=cell)
    assert moves == ([False, False, True] if hit else [True] * 3)


def test_zap_waste_and_apple_probabilities():
    """Compares the probabilities of hits, waste and apples, by number of dirty cells, with their frequencies."""
    game = place(make_game(20_000, waste_chance=0.35), player_0=(0, 1), player_1=(0, 2))
    act(game, "zap", "stay")
    assert float((game._frozen[1] > 0).float().mean()) == pytest.approx(0.9, abs=0.01)
    dirty = (game._ground == WASTE).sum(0)
    assert float(dirty.float().mean()) == pytest.approx(0.35, abs=0.015)
    assert bool(((game._ground == APPLE).sum(0) == 1).all())  # no cell was dirty
    for cells, chance in ((1, 2 / 3), (2, 1 / 3), (3, 0.0), (4, 0.0)):
        game = place(make_game(20_000, waste_chance=0.0), player_0=(0, 1), player_1=(0, 2))
        game._ground[4 : 4 + cells] = WASTE
        act(game, "stay", "stay")
        assert float((game._ground == APPLE).sum(0).float().mean()) == pytest.approx(chance, abs=0.015)
    grown = (game._ground[:4] == APPLE).sum(1)
    assert not grown.any()


def test_waste_and_apples_appear_uniformly_on_free_cells():
    game = place(make_game(8_000, waste_chance=1.0), player_0=(1, 0), player_1=(2, 4))
    act(game, "stay", "stay")
    waste = (game._ground[4:8] == WASTE).float().mean(1).tolist()
    apples = (game._ground[:4] == APPLE).float().mean(1).tolist()
    assert waste[1] == apples[2] == 0.0
    for rates, free in ((waste, (0, 2, 3)), (apples, (0, 1, 3))):
        assert all(rates[cell] == pytest.approx(1 / 3, abs=0.03) for cell in free)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"map": "PP\nPB"}, "no river"), ({"map": "PP\nPR"}, "no orchard"), ({"zap_chance": 2.0}, "zap_chance is 2.0")],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_game(**settings)
