import pytest
import torch
from ray.rllib.core.columns import Columns

import social_dilemmas
from rllib_reciprocator.players import STRATEGIES, ScriptedModule
from rllib_reciprocator.players.scripted import memory_1_strategy

C, D = 0, 1


def play(strategy, opponent_moves, num_agents=2):
    """Returns the actions of a strategy against given moves of the other players, in one environment."""
    game_id = "ipd_v0" if num_agents == 2 else "public_goods_v0"
    game = social_dilemmas.make(game_id, 1, **({} if num_agents == 2 else {"num_agents": num_agents}))
    module = ScriptedModule(
        observation_space=game.observation_space, action_space=game.action_space, model_config={"strategy": strategy}
    )
    obs, state, actions = game.reset(), module.get_initial_state(), []
    state = {name: value.expand(1) for name, value in state.items()}
    for moves in opponent_moves:
        out = module.forward_exploration({Columns.OBS: obs[:, 0], Columns.STATE_IN: state})
        state = out.get(Columns.STATE_OUT, state)
        actions.append(int(out[Columns.ACTIONS]))
        other_moves = [moves] if num_agents == 2 else list(moves)
        obs = game.step(torch.tensor([[actions[-1], *other_moves]])).obs
    return actions


@pytest.mark.parametrize(
    ("strategy", "opponent", "answers"),
    [
        ("always_cooperate", [C, D, D, C], [C, C, C, C]),
        ("always_defect", [C, D, D, C], [D, D, D, D]),
        ("tit_for_tat", [C, D, D, C, C], [C, C, D, D, C]),
        ("grim_trigger", [C, D, C, C, C], [C, C, D, D, D]),
        # C/C stay; C/D lost, shift; D/D lost, shift; C/C stay; C/D lost, shift
        ("win_stay_lose_shift", [C, D, D, C, D, C], [C, C, D, C, C, D]),
    ],
)
def test_strategies_by_hand(strategy, opponent, answers):
    assert play(strategy, opponent) == answers


def test_tit_for_tat_repeats_the_majority():
    assert play("tit_for_tat", [(D, C, C), (D, D, C), (C, C, C)], num_agents=4) == [C, C, D]


def test_grim_trigger_reacts_to_a_single_defection():
    assert play("grim_trigger", [(C, C, C), (C, D, C), (C, C, C), (C, C, C)], num_agents=4) == [C, C, D, D]


def test_win_stay_lose_shift_cooperates_after_equal_moves():
    assert play("win_stay_lose_shift", [(C, C, D), (D, D, D), (C, C, C)], num_agents=4) == [C, D, C]


def test_random_strategy_is_uniform():
    game = social_dilemmas.make("ipd_v0", 1)
    module = ScriptedModule(
        observation_space=game.observation_space, action_space=game.action_space, model_config={"strategy": "random"}
    )
    out = module.forward_exploration({Columns.OBS: torch.zeros(20_000, 2)})
    distribution = module.get_exploration_action_dist_cls().from_logits(out[Columns.ACTION_DIST_INPUTS])
    assert abs(float(distribution.sample().float().mean()) - 0.5) < 0.02


def test_every_strategy_is_tested_here():
    assert set(STRATEGIES) == {
        "always_cooperate",
        "always_defect",
        "tit_for_tat",
        "grim_trigger",
        "win_stay_lose_shift",
        "random",
    }


@pytest.mark.parametrize("path", ["sys:exit", "os:abort", "math:pi", "nosuchmodule:f"])
def test_only_functions_of_a_view_are_strategies(path):
    with pytest.raises(ValueError, match=r"cannot be imported|annotated as View"):
        memory_1_strategy(path)
