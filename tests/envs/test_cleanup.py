"""Rules of Cleanup, tested through its interface: settings, actions, observations and rewards."""

import pytest
import torch

import social_dilemmas

SHORE = "\n".join(["@@@@@", "@RRB@", "@PP @", "@@@@@"])


def dirty_cells(game):
    """Returns the number of dirty cells of the river of each environment, ``[B]``."""
    return (game.state() == game.class_names.index("waste")).flatten(1).sum(1)


def joint_action(game, *names):
    return torch.tensor([[game.action_names.index(name) for name in names]] * game.num_games)


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_waste_appears_in_the_first_step_after_its_delay(delay):
    settings = {"waste_chance": 1.0, "waste_chance_per_cell": 1.0, "waste_limit": 1.0, "waste_threshold": 1.0}
    game = social_dilemmas.make("cleanup_v0", 3, map=SHORE, num_agents=2, turning=False, waste_delay=delay, **settings)
    game.reset(seed=1)
    counts = []
    for _ in range(delay + 2):
        game.step(joint_action(game, "stay", "stay"))
        counts.append(dirty_cells(game).tolist())
    assert counts == [[0] * 3] * delay + [[1] * 3, [2] * 3]


@pytest.mark.parametrize("river", ["R", "H"])
def test_zaps_pass_over_clean_and_dirty_river_cells(river):
    """Zaps an agent on the other side of the river, and checks that the waste does not change."""
    text = "\n".join(["@@@@@", "@@0@@", f"@@{river}@@", "@@1@@", "@@B@@", "@@@@@"])
    settings = {"zap_cost": 1.0, "zap_penalty": 50.0, "waste_chance": 0.0, "apple_chance": 0.0}
    game = social_dilemmas.make("cleanup_v0", 2, map=text, num_agents=2, turning=False, **settings)
    game.reset(seed=1)
    before = dirty_cells(game)
    step = game.step(joint_action(game, "stay", "zap"))
    assert step.rewards.tolist() == [[-50.0, -1.0]] * 2
    # Beams hide the ground for one step.
    game.step(joint_action(game, "stay", "stay"))
    assert torch.equal(dirty_cells(game), before)
    assert before.tolist() == [int(river == "H")] * 2
