import pytest

from rllib_reciprocator.engine import PlayerKind, assign
from rllib_reciprocator.engine.registries import player_kinds

AGENTS = ("player_0", "player_1", "player_2")
MATRIX = ("cooperate", "defect")
KINDS = player_kinds()


def assigned(mapping, actions=MATRIX, kinds=KINDS):
    return assign(mapping, AGENTS, actions, kinds, next(iter(kinds)))


def names(mapping, actions=MATRIX):
    return [player.written for player in assigned(mapping, actions)]


def test_agent_name_overrides_patterns():
    assert names({"player_1": "ppo", "player_*": "reciprocator"}) == ["reciprocator", "ppo", "reciprocator"]


def test_later_pattern_overrides_earlier_one():
    assert names({"player_*": "ppo", "player_[12]": "scripted/random"}) == ["ppo", "scripted/random", "scripted/random"]


@pytest.mark.parametrize(
    ("mapping", "actions", "complaint"),
    [
        (
            {"player_*": "ppo", "player_3": "ppo"},
            MATRIX,
            "players.player_3: the environment has no such agent; did you mean 'player_",
        ),
        ({"player_0": "ppo"}, MATRIX, "players: no key assigns a player to player_1"),
        ({"player_*": "reciprocater"}, MATRIX, "no player 'reciprocater'; did you mean 'reciprocator'"),
        ({"player_*": "scripted/tit_for_tit"}, MATRIX, "did you mean 'tit_for_tat'"),
        ({"player_*": "scripted/grim_trigger"}, ("left", "right"), "use scripted/random here"),
        ({"player_*": "checkpoint/nowhere"}, MATRIX, "nowhere: no such checkpoint"),
        ({"player_*": 3}, MATRIX, "there is no player 3"),
    ],
)
def test_errors_name_the_key_and_the_nearest_value(mapping, actions, complaint):
    with pytest.raises(ValueError, match=complaint):
        assigned(mapping, actions)


def test_random_strategy_supports_all_actions():
    assert names({"*": "scripted/random"}, ("left", "right")) == ["scripted/random"] * 3


def test_mappings_with_settings_and_teams():
    players = {
        "player_0": {"player": "ppo", "lr": 0.1, "lambda": 0.5, "model_config": {"fcnet_hiddens": [4]}},
        "player_1": "team/red",
        "player_2": {"team": "red"},
    }
    first, second, third = assign(players, AGENTS, MATRIX, KINDS, "reciprocator")
    assert (first.kind, first.module_id) == ("learner", "player_0")
    assert first.overrides == {"lr": 0.1, "lambda_": 0.5}
    assert first.settings["model_config"] == {"fcnet_hiddens": [4]}
    assert second.module_id == third.module_id == "red"
    assert second.kind == third.kind == "learner"
    assert "reciprocity" in second.intrinsic
    assert "reciprocity" in third.intrinsic
    assert "reciprocity" not in first.intrinsic


def test_trainable_player_is_named_after_its_kind():
    kinds = {"impala": PlayerKind()}
    player = assigned({"*": "impala"}, kinds=kinds)[0]
    assert (player.kind, player.algorithm) == ("learner", "impala")
    with pytest.raises(ValueError, match="there is no player 'ppo'"):
        assigned({"*": "ppo"}, kinds=kinds)


def test_intrinsic_rewards_of_single_players():
    players = {
        "player_0": {"player": "ppo", "intrinsic": {"inequity_aversion": {"alpha": 2.0}}},
        "player_1": {"player": "reciprocator", "intrinsic": {"reciprocity": {"weight": 1.0}}},
        "player_2": {"player": "reciprocator", "intrinsic": {"social_value_orientation": None}},
    }
    first, second, third = assigned(players)
    assert first.intrinsic == {"inequity_aversion": {"alpha": 2.0}}
    assert second.intrinsic == {"reciprocity": {"weight": 1.0}}
    assert third.intrinsic == {"reciprocity": {}, "social_value_orientation": {}}


def test_a_pool_has_members_with_shares():
    pool = {"pool": {"scripted/tit_for_tat": 0.25, "reciprocator": 0.75}}
    player = assigned({"*": pool})[0]
    assert [(member.written, share) for member, share in player.pool_members] == [
        ("scripted/tit_for_tat", 0.25),
        ("reciprocator", 0.75),
    ]
    assert player.learns
    assert not assigned({"*": {"pool": {"scripted/random": 1.0}}})[0].learns


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"pool": {}}, "give players and their shares"),
        ({"pool": {"ppo": 0.5, "scripted/random": 0.4}}, "the shares sum to 0.9, not to 1"),
        ({"pool": {"ppo": 1.5}}, "1.5 is not a share between 0 and 1"),
        ({"pool": {"ppo": True}}, "True is not a share"),
        ({"pool": {"pp": 1.0}}, "no player 'pp'; did you mean 'ppo'"),
        ({"pool": {"ppo": 1.0}, "lr": 0.1}, "cannot be combined with other keys"),
        ({"player": "ppo", "intrinsic": {"envy": {}}}, "there is no intrinsic reward 'envy'; use reciprocity"),
        ({"player": "ppo", "intrinsic": {"my_module:envy": {}}}, "cannot be imported"),
        ({"player": "ppo", "intrinsic": 3}, "3 is not a mapping"),
        ({"player": "scripted/random", "intrinsic": {}}, "does not learn and takes no settings"),
    ],
)
def test_errors_of_pools_and_intrinsic_rewards(value, complaint):
    with pytest.raises(ValueError, match=complaint):
        assigned({"*": value})
