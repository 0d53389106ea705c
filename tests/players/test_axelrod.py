import pytest
import torch
from ray.rllib.core.columns import Columns

import social_dilemmas
from rllib_reciprocator.players import AxelrodModule, ScriptedModule

axelrod = pytest.importorskip("axelrod")
PAYOFFS = social_dilemmas.make("ipd_v0").payoffs.tolist()


def build_module(kind, game, **settings):
    return kind(observation_space=game.observation_space, action_space=game.action_space, model_config=settings)


def strategy(game, name):
    return build_module(AxelrodModule, game, strategy=name, payoffs=PAYOFFS, seed=1)


@pytest.mark.parametrize(
    ("first", "second"),
    [("TitForTat", "Alternator"), ("Grudger", "Alternator"), ("Gradual", "TitFor2Tats"), ("Adaptive", "CyclerCCD")],
)
def test_episodes_equal_matches_of_the_library(first, second):
    """Compares all environments, in two episodes each, with the match that the library plays."""
    game = social_dilemmas.make("ipd_v0", 3, num_steps=20)
    players = [strategy(game, name) for name in (first, second)]
    table = axelrod.Game(r=-1, s=-3, t=0, p=-2)
    match = axelrod.Match([getattr(axelrod, name)() for name in (first, second)], turns=20, game=table)
    expected = [[int(action == axelrod.Action.D) for action in joint_action] for joint_action in match.play()]
    for _ in range(2):
        obs, joint_actions = game.reset(), []
        for _ in range(20):
            outputs = [player.forward_exploration({Columns.OBS: obs[:, k]}) for k, player in enumerate(players)]
            joint = torch.stack([output[Columns.ACTIONS] for output in outputs], 1)
            obs = game.step(joint).obs
            joint_actions.append(joint)
        for env_index in range(3):
            assert [joint[env_index].tolist() for joint in joint_actions] == expected


def test_random_strategies_differ_between_environments_and_repeat_with_the_seed():
    game = social_dilemmas.make("ipd_v0", 64)
    obs = game.reset()
    first, second = (strategy(game, "Random").forward_exploration({Columns.OBS: obs[:, 0]}) for _ in range(2))
    assert 0 < first[Columns.ACTIONS].float().mean() < 1
    assert torch.equal(first[Columns.ACTIONS], second[Columns.ACTIONS])


def test_strategy_equals_the_strategy():
    game = social_dilemmas.make("ipd_v0", 8)
    torch.manual_seed(0)
    scripted_player, library = (
        build_module(ScriptedModule, game, strategy="win_stay_lose_shift"),
        strategy(game, "WinStayLoseShift"),
    )
    obs = game.reset()
    for _ in range(16):
        actions = [
            module.forward_exploration({Columns.OBS: obs[:, 0]})[Columns.ACTIONS]
            for module in (scripted_player, library)
        ]
        assert torch.equal(*actions)
        obs = game.step(torch.stack([actions[0], torch.randint(2, (8,))], 1)).obs
