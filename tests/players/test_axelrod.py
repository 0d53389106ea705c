import pytest
import torch
from ray.rllib.core.columns import Columns

import social_dilemmas
from rllib_reciprocator.players import AxelrodModule, ScriptedModule

axelrod = pytest.importorskip("axelrod")
PAYOFFS = social_dilemmas.make("ipd_v0").payoffs.tolist()


def module_of(kind, game, **settings):
    return kind(observation_space=game.observation_space, action_space=game.action_space, model_config=settings)


def strategy(game, name):
    return module_of(AxelrodModule, game, strategy=name, payoffs=PAYOFFS, seed=1)


@pytest.mark.parametrize(
    ("first", "second"),
    [("TitForTat", "Alternator"), ("Grudger", "Alternator"), ("Gradual", "TitFor2Tats"), ("Adaptive", "CyclerCCD")],
)
def test_games_are_those_of_the_library(first, second):
    """Every copy of a game, twice over, is the match that the library itself plays."""
    game = social_dilemmas.make("ipd_v0", 3, num_steps=20)
    players = [strategy(game, name) for name in (first, second)]
    table = axelrod.Game(r=-1, s=-3, t=0, p=-2)
    match = axelrod.Match([getattr(axelrod, name)() for name in (first, second)], turns=20, game=table)
    expected = [[int(action == axelrod.Action.D) for action in both] for both in match.play()]
    for _ in range(2):
        obs, played = game.reset(), []
        for _ in range(20):
            actions = [each.forward_exploration({Columns.OBS: obs[:, k]}) for k, each in enumerate(players)]
            joint = torch.stack([each[Columns.ACTIONS] for each in actions], 1)
            obs = game.step(joint).obs
            played.append(joint)
        for copy in range(3):
            assert [joint[copy].tolist() for joint in played] == expected


def test_copies_of_a_random_strategy_differ_and_the_seed_repeats_them():
    game = social_dilemmas.make("ipd_v0", 64)
    obs = game.reset()
    one, again = (strategy(game, "Random").forward_exploration({Columns.OBS: obs[:, 0]}) for _ in range(2))
    assert 0 < one[Columns.ACTIONS].float().mean() < 1
    assert torch.equal(one[Columns.ACTIONS], again[Columns.ACTIONS])


def test_beside_scripted_players():
    game = social_dilemmas.make("ipd_v0", 8)
    torch.manual_seed(0)
    ours, theirs = module_of(ScriptedModule, game, strategy="win_stay_lose_shift"), strategy(game, "WinStayLoseShift")
    obs = game.reset()
    for _ in range(16):
        same = [each.forward_exploration({Columns.OBS: obs[:, 0]})[Columns.ACTIONS] for each in (ours, theirs)]
        assert torch.equal(*same)
        obs = game.step(torch.stack([same[0], torch.randint(2, (8,))], 1)).obs
