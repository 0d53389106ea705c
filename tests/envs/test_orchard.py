"""Tests apples and waste on grids, compared with the probabilities of the rules."""

import numpy as np
import pytest
import torch

import social_dilemmas
from tests.helpers.grids import (
    APPLE,
    SAND,
    UP,
    WASTE,
    ground,
    lay,
    play,
    situation,
)


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
