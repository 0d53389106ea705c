import pytest
import torch

import social_dilemmas
from social_dilemmas.cleanup_lite import RIVER, WASTE
from social_dilemmas.orchard import APPLE


def game(num_games=1, **settings):
    made = social_dilemmas.make("cleanup_lite_v0", num_games, **settings)
    made.reset(seed=0)
    return made


def put(played, **cells):
    """Puts agents on cells, given as (row, column)."""
    for agent, cell in cells.items():
        number = int(played.map.numbers[cell])
        played._cells[int(agent.removeprefix("player_"))] = number
    return played


def act(played, *names):
    return played.step(torch.tensor([[played.action_names.index(name) for name in names]]).expand(played.num_games, -1))


def test_sizes_and_actions():
    played = game()
    assert played.observation_space.shape == (4, 5)
    assert played.action_names == ("left", "right", "forward", "back", "stay", "zap")
    assert played.map.blocks[:2] == (4, 4)


def test_walking_over_waste_cleans_it_and_over_an_apple_eats_it():
    played = put(game(waste_chance=0.0), player_0=(0, 1), player_1=(0, 3))
    ground = played._ground
    ground[int(played.map.numbers[0, 0])] = WASTE
    ground[int(played.map.numbers[0, 4])] = APPLE
    step = act(played, "left", "right")
    assert step.rewards.tolist() == [[0.0, 1.0]]
    assert step.outcomes["waste_cleaned"].tolist() == [[1.0, 0.0]]
    assert int(played._ground[int(played.map.numbers[0, 0])]) == RIVER
    assert int((played._ground == WASTE).sum()) == 0


@pytest.mark.parametrize(("cell", "hit"), [((0, 3), True), ((1, 2), True), ((2, 3), False), ((3, 1), False)])
def test_zaps_reach_two_steps_and_freeze(cell, hit):
    played = put(game(zap_chance=1.0, waste_chance=0.0, freeze_steps=2), player_0=(0, 1), player_1=cell)
    step = act(played, "zap", "stay")
    assert step.outcomes["zaps"].tolist() == [[1.0, 0.0]]
    assert played._frozen[:, 0].tolist() == [0, 2 * hit]
    row, _ = cell
    moves = []
    for _ in range(3):
        before = played._cells[1].clone()
        # Back and forth, so that a wall is not what stops it.
        step = act(played, "stay", "forward" if row else "back")
        moves.append(not torch.equal(before, played._cells[1]))
        put(played, player_1=cell)
    assert moves == ([False, False, True] if hit else [True] * 3)


def test_chances():
    """Of zaps, of waste, and of apples by the dirty cells, over many copies."""
    played = put(game(20_000, waste_chance=0.35), player_0=(0, 1), player_1=(0, 2))
    act(played, "zap", "stay")
    assert float((played._frozen[1] > 0).float().mean()) == pytest.approx(0.9, abs=0.01)
    dirty = (played._ground == WASTE).sum(0)
    assert float(dirty.float().mean()) == pytest.approx(0.35, abs=0.015)
    assert bool(((played._ground == APPLE).sum(0) == 1).all())  # nothing was dirty
    for cells, chance in ((1, 2 / 3), (2, 1 / 3), (3, 0.0), (4, 0.0)):
        played = put(game(20_000, waste_chance=0.0), player_0=(0, 1), player_1=(0, 2))
        played._ground[4 : 4 + cells] = WASTE
        act(played, "stay", "stay")
        assert float((played._ground == APPLE).sum(0).float().mean()) == pytest.approx(chance, abs=0.015)
    which = (played._ground[:4] == APPLE).sum(1)
    assert not which.any()


def test_things_appear_on_any_free_cell_alike_and_never_under_agents():
    played = put(game(8_000, waste_chance=1.0), player_0=(1, 0), player_1=(2, 4))
    act(played, "stay", "stay")
    waste = (played._ground[4:8] == WASTE).float().mean(1).tolist()
    apples = (played._ground[:4] == APPLE).float().mean(1).tolist()
    assert waste[1] == apples[2] == 0.0
    for found, free in ((waste, (0, 2, 3)), (apples, (0, 1, 3))):
        assert all(found[cell] == pytest.approx(1 / 3, abs=0.03) for cell in free)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"map": "PP\nPB"}, "no river"), ({"map": "PP\nPR"}, "no orchard"), ({"zap_chance": 2.0}, "zap_chance is 2.0")],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        game(**settings)
