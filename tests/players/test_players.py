import pytest

from rllib_reciprocator.players import assign

SEATS = ("player_0", "player_1", "player_2")
MATRIX = ("cooperate", "defect")


def kinds(mapping, actions=MATRIX):
    return [player.written for player in assign(mapping, SEATS, actions)]


def test_a_seats_own_name_goes_before_patterns():
    assert kinds({"player_1": "ppo", "player_*": "reciprocator"}) == ["reciprocator", "ppo", "reciprocator"]


def test_a_later_pattern_goes_before_an_earlier_one():
    assert kinds({"player_*": "ppo", "player_[12]": "scripted/random"}) == ["ppo", "scripted/random", "scripted/random"]


@pytest.mark.parametrize(
    ("mapping", "actions", "complaint"),
    [
        (
            {"player_*": "ppo", "player_3": "ppo"},
            MATRIX,
            "players.player_3: the game has no such seat; did you mean 'player_",
        ),
        ({"player_0": "ppo"}, MATRIX, "players: nobody plays player_1"),
        ({"player_*": "reciprocater"}, MATRIX, "no player 'reciprocater'; did you mean 'reciprocator'"),
        ({"player_*": "scripted/tit_for_tit"}, MATRIX, "did you mean 'tit_for_tat'"),
        ({"player_*": "scripted/grim_trigger"}, ("left", "right"), "here only scripted/random can"),
        ({"player_*": "checkpoint/nowhere"}, MATRIX, "nowhere: no such checkpoint"),
        ({"player_*": 3}, MATRIX, "there is no player 3"),
    ],
)
def test_errors_name_key_and_nearest(mapping, actions, complaint):
    with pytest.raises(ValueError, match=complaint):
        assign(mapping, SEATS, actions)


def test_random_plays_anything():
    assert kinds({"*": "scripted/random"}, ("left", "right")) == ["scripted/random"] * 3


def test_mappings_with_settings_and_teams():
    players = {
        "player_0": {"player": "ppo", "lr": 0.1, "lambda": 0.5, "model_config": {"fcnet_hiddens": [4]}},
        "player_1": "team/red",
        "player_2": {"team": "red"},
    }
    zero, one, two = assign(players, SEATS, MATRIX)
    assert (zero.kind, zero.module_id) == ("learner", "player_0")
    assert zero.overrides == {"lr": 0.1, "lambda_": 0.5}
    assert zero.settings["model_config"] == {"fcnet_hiddens": [4]}
    assert one.module_id == two.module_id == "red"
    assert one.kind == two.kind == "reciprocator"


def test_who_only_learns_is_named_after_the_algorithm():
    assert assign({"*": "impala"}, SEATS, MATRIX, learner="impala")[0].kind == "learner"
    with pytest.raises(ValueError, match="there is no player 'ppo'"):
        assign({"*": "ppo"}, SEATS, MATRIX, learner="impala")
